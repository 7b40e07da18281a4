/** The large view of an image or the camera: points, frame and table. */

import { trainedRectangle } from './detector.js';
import { draw } from './draw.js';
import { Frame } from './frame.js';
import { Table } from './table.js';

/** @typedef {import('./entries.js').Entry} Entry */
/** @typedef {import('./detector.js').Description} Description */
/** @typedef {import('./detector.js').Found} Found */
/** @typedef {import('./resize.js').Pixels} Pixels */
/** @typedef {import('./resize.js').Rectangle} Rectangle */

/**
 * What the viewer shows.
 * @typedef {object} Shown
 * @property {?Entry} entry an image of the gallery, or null for the camera.
 * @property {HTMLCanvasElement} source the image at full size.
 * @property {?Pixels} [pixels] of `source`, once they are read; not of the camera.
 * @property {Rectangle} rectangle the viewed part.
 * @property {?Found} found
 * @property {Found[]} others the points of other faces in it.
 */

const part = (id) => document.getElementById(id);

/** How to draw points, from the checkboxes. */
export function style() {
  const on = (id) => part(id).checked;
  return { numbers: on('numbers'), labelled: on('labelled'), fade: on('fade'), mirrored: false };
}

export class Viewer {
  /** @type {?Shown} */
  shown = null;
  #description;
  #frame;
  #table;

  /**
   * @param {Description} description
   * @param {(shown: Shown) => void} onframe called when the user has changed the frame.
   */
  constructor(description, onframe) {
    this.#description = description;
    this.#table = new Table(part('points'), description);
    this.#frame = new Frame(part('frame'), (rectangle) => {
      this.shown.rectangle = rectangle;
      this.render(false);
      onframe(this.shown);
    });
    part('labelled-switch').hidden = !description.num_labelled;
    part('reset').addEventListener('click', () => {
      this.shown.rectangle = this.#start();
      this.show(this.shown);
      onframe(this.shown);
    });
    new ResizeObserver(() => this.render(false)).observe(part('stage'));
  }

  /** Whether the camera is shown. */
  get live() {
    return this.shown !== null && this.shown.entry === null;
  }

  /** Shows something else, or nothing. */
  show(/** @type {?Shown} */ shown) {
    this.shown = shown;
    const { live } = this;
    part('work').hidden = shown === null;
    for (const id of ['mirror-switch', 'keep', 'rate', 'devices']) {
      part(id).hidden = !live;
    }
    part('remove').hidden = live;
    part('remove').textContent = shown?.entry?.face ? 'Remove face' : 'Remove image';
    part('camera').textContent = live ? 'Stop camera' : 'Start camera';
    if (!shown) {
      return;
    }
    const { width, height } = shown.source;
    part('stage').style.setProperty('--ratio', String(width / height));
    part('image').setAttribute('aria-label', shown.entry?.label ?? 'Camera');
    this.#frame.show(shown.rectangle, shown.source, this.#mirrored);
    this.render();
  }

  /** Moves the frame of what is shown. */
  move(/** @type {Rectangle} */ rectangle) {
    this.shown.rectangle = rectangle;
    this.#frame.show(rectangle, this.shown.source, this.#mirrored);
  }

  /** Redraws the image and its points, and by default the table. */
  render(withTable = true) {
    if (!this.shown) {
      return;
    }
    const { source, found, rectangle, others } = this.shown;
    const canvas = part('image');
    const unit = devicePixelRatio || 1;
    const { width, height } = part('stage').getBoundingClientRect();
    const [across, down] = [width, height].map((side) => Math.max(1, Math.round(side * unit)));
    if (canvas.width !== across || canvas.height !== down) {
      canvas.width = across;
      canvas.height = down;
    }
    const looks = { ...style(), mirrored: this.#mirrored };
    const whole = [0, 0, source.width, source.height];
    const objects = found ? [found, ...others] : others;
    draw(canvas, source, whole, objects, this.#description, looks, unit);
    part('frame').classList.toggle('among', others.length > 0);
    const [left, top, right, bottom] = rectangle.map(Math.round);
    part('place').textContent = `Frame: ${left}, ${top} to ${right}, ${bottom}`;
    const framed = this.#whole().some((edge, i) => edge !== rectangle[i]);
    part('boxed').hidden = this.#description.crop !== 'box' || framed;
    if (withTable) {
      this.#table.fill(found, looks.labelled);
    }
  }

  /** The initial frame. */
  #start() {
    return this.shown.entry?.face?.rectangle ?? this.#whole();
  }

  /** The initial frame of an image in which no faces are found. */
  #whole() {
    const { width, height } = this.shown.source;
    return trainedRectangle(this.#description, width, height);
  }

  get #mirrored() {
    return this.live && part('mirror').checked;
  }
}
