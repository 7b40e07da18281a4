/** The frame around the viewed part of an image, moved by pointer and keyboard. */

/** @typedef {import('./resize.js').Rectangle} Rectangle */

/** As shares of the image's larger side. */
const STEP = 0.02;
const SMALLEST = 0.05;
/** As a share of the frame's width: small frames move less. */
const LONGEST_STEP = 0.1;
/** Enlargement by one press of +. */
const FACTOR = 1.05;

export class Frame {
  /** @type {HTMLElement} */
  #element;
  #onchange;
  /** @type {Rectangle} */
  #rectangle = [0, 0, 1, 1];
  #width = 1;
  #height = 1;
  #mirrored = false;
  /** What the pointer drags: where it began, the rectangle then, and which sides follow. */
  #drag = null;

  /**
   * @param {HTMLElement} element the frame; its parent covers the whole image. Its children with
   *   `data-x` and `data-y`, -1 or 1, are the handles of its corners.
   * @param {(rectangle: Rectangle) => void} onchange called when the user changes it.
   */
  constructor(element, onchange) {
    this.#element = element;
    this.#onchange = onchange;
    element.addEventListener('pointerdown', (event) => this.#grab(event));
    element.addEventListener('pointermove', (event) => this.#pull(event));
    for (const end of ['pointerup', 'pointercancel']) {
      element.addEventListener(end, () => (this.#drag = null));
    }
    element.addEventListener('keydown', (event) => this.#press(event));
  }

  /**
   * Shows the frame.
   * @param {Rectangle} rectangle in pixels of the image.
   * @param {{width: number, height: number}} image
   * @param {boolean} mirrored whether the image is shown flipped.
   */
  show(rectangle, { width, height }, mirrored = false) {
    this.#width = width;
    this.#height = height;
    this.#mirrored = mirrored;
    this.#rectangle = rectangle;
    this.#place();
  }

  #place() {
    const [left, top, right, bottom] = this.#rectangle;
    const near = this.#mirrored ? this.#width - right : left;
    const { style } = this.#element;
    style.left = `${(100 * near) / this.#width}%`;
    style.top = `${(100 * top) / this.#height}%`;
    style.width = `${(100 * (right - left)) / this.#width}%`;
    style.height = `${(100 * (bottom - top)) / this.#height}%`;
  }

  /** @param {PointerEvent} event */
  #grab(event) {
    if (event.button !== 0) {
      return;
    }
    this.#element.setPointerCapture(event.pointerId);
    const { x = 0, y = 0 } = event.target.dataset;
    this.#drag = {
      from: [event.clientX, event.clientY],
      before: this.#rectangle,
      sides: [Number(x) * this.#sign, Number(y)],
    };
  }

  /** @param {PointerEvent} event */
  #pull(event) {
    if (!this.#drag) {
      return;
    }
    const { from, before, sides } = this.#drag;
    const shown = this.#element.parentElement.getBoundingClientRect();
    const dx = ((event.clientX - from[0]) / shown.width) * this.#width * this.#sign;
    const dy = ((event.clientY - from[1]) / shown.height) * this.#height;
    if (sides[0] === 0) {
      this.#change(shifted(before, dx, dy, this.#width, this.#height));
      return;
    }
    const [left, top, right, bottom] = before;
    const least = SMALLEST * Math.max(this.#width, this.#height);
    const [x0, x1] = pulled(left, right, dx, sides[0], least, this.#width);
    const [y0, y1] = pulled(top, bottom, dy, sides[1], least, this.#height);
    this.#change([x0, y0, x1, y1]);
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const [left, , right] = this.#rectangle;
    const step = Math.min(
      STEP * Math.max(this.#width, this.#height),
      LONGEST_STEP * (right - left),
    );
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    let next;
    if (event.key in ways) {
      const [x, y] = ways[event.key];
      next = event.shiftKey
        ? this.#grown(2 * step * x, 2 * step * y)
        : shifted(this.#rectangle, step * x * this.#sign, step * y, this.#width, this.#height);
    } else if ('+=-_'.includes(event.key)) {
      const [, top, , bottom] = this.#rectangle;
      const more = ('+='.includes(event.key) ? FACTOR : 1 / FACTOR) - 1;
      next = this.#grown((right - left) * more, (bottom - top) * more);
    } else {
      return;
    }
    event.preventDefault();
    this.#change(next);
  }

  /** The rectangle enlarged about its centre by some pixels. */
  #grown(wider, higher) {
    const [left, top, right, bottom] = this.#rectangle;
    const least = SMALLEST * Math.max(this.#width, this.#height);
    const [x0, x1] = spread(left, right, wider, least, this.#width);
    const [y0, y1] = spread(top, bottom, higher, least, this.#height);
    return [x0, y0, x1, y1];
  }

  /** @param {Rectangle} rectangle */
  #change(rectangle) {
    this.#rectangle = rectangle;
    this.#place();
    this.#onchange(rectangle);
  }

  /** Direction of the image's x axis on the screen. */
  get #sign() {
    return this.#mirrored ? -1 : 1;
  }
}

/** The rectangle shifted, within the image. */
function shifted([left, top, right, bottom], dx, dy, width, height) {
  const x = Math.min(Math.max(dx, -left), width - right);
  const y = Math.min(Math.max(dy, -top), height - bottom);
  return [left + x, top + y, right + x, bottom + y];
}

/** One axis with one side (-1 or 1) shifted, within the image and not too short. */
function pulled(low, high, by, side, least, length) {
  const short = Math.min(least, high - low);
  return side < 0
    ? [Math.min(Math.max(low + by, 0), high - short), high]
    : [low, Math.max(Math.min(high + by, length), low + short)];
}

/** One axis enlarged about its centre, within the image and not too short. */
function spread(low, high, by, least, length) {
  const long = Math.min(Math.max(high - low + by, Math.min(least, high - low)), length);
  const start = Math.min(Math.max((low + high - long) / 2, 0), length - long);
  return [start, start + long];
}
