/** A photo with its points on a canvas: zoom, pan, clicks and drags. */

const REACH = 10; // CSS pixels within which a point is hit
const STILL = 4; // CSS pixels that a click may move
const MOST = 64; // CSS pixels of a photo's pixel
const RADIUS = 6;

export class PhotoView {
  #canvas;
  #colors;
  #on;
  /** @type {?HTMLImageElement} */
  #image = null;
  #points = [];
  #selected = 0;
  /** CSS pixels of a photo's pixel, and where the photo's upper left corner is. */
  #scale = 1;
  #left = 0;
  #top = 0;
  #fitted = true;
  #drag = null;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {string[]} colors of the points.
   * @param {{place: Function, move: Function}} on `place(point, hit)`: a click, on the point `hit`
   *   or -1; `move(number, point, over, first)`: a point is dragged.
   */
  constructor(canvas, colors, on) {
    this.#canvas = canvas;
    this.#colors = colors;
    this.#on = on;
    canvas.addEventListener('pointerdown', (event) => this.#press(event));
    canvas.addEventListener('pointermove', (event) => this.#follow(event));
    canvas.addEventListener('pointerup', (event) => this.#release(event));
    canvas.addEventListener('pointercancel', (event) => this.#release(event));
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      this.zoom(2 ** (-event.deltaY / (event.deltaMode ? 10 : 300)), this.#at(event));
    });
  }

  /** Whether a photo is shown. */
  get ready() {
    return this.#image !== null;
  }

  /** Whether a point or the photo is being dragged, or a click is not released yet. */
  get dragging() {
    return this.#drag !== null;
  }

  /** Shows nothing, until the next photo is there. */
  clear() {
    this.#image = null;
    this.#drag = null;
    delete this.#canvas.dataset.ready;
  }

  /** Shows a photo as a whole. */
  open(/** @type {HTMLImageElement} */ image) {
    this.#image = image;
    this.fit();
    this.#canvas.dataset.ready = 'true';
  }

  fit() {
    if (this.#image) {
      const { width, height } = this.#canvas.getBoundingClientRect();
      const { naturalWidth, naturalHeight } = this.#image;
      this.#scale = Math.min(width / naturalWidth, height / naturalHeight);
      this.#left = (width - naturalWidth * this.#scale) / 2;
      this.#top = (height - naturalHeight * this.#scale) / 2;
    }
    this.#fitted = true;
    this.#render();
  }

  /** Zooms about a place of the canvas, by default its middle. */
  zoom(factor, at = this.#center()) {
    const scale = Math.min(MOST, Math.max(0.02, this.#scale * factor));
    this.#left = at[0] - ((at[0] - this.#left) * scale) / this.#scale;
    this.#top = at[1] - ((at[1] - this.#top) * scale) / this.#scale;
    this.#scale = scale;
    this.#fitted = false;
    this.#render();
  }

  /** The canvas has another size. */
  resize() {
    if (this.#fitted) {
      this.fit();
    } else {
      this.#render();
    }
  }

  /** Draws points, with the selected one larger. */
  draw(points, selected) {
    this.#points = points;
    this.#selected = selected;
    this.#render();
  }

  /** The point of the photo in the middle of the canvas. */
  middle() {
    return this.#inPhoto(this.#center());
  }

  /** The middle of the canvas, in CSS pixels. */
  #center() {
    const { width, height } = this.#canvas.getBoundingClientRect(); // not rounded
    return [width / 2, height / 2];
  }

  /** A point moved into the photo, in hundredths of a pixel. */
  inside(point) {
    const { naturalWidth, naturalHeight } = this.#image;
    const limit = (value, length) => Math.min(length - 0.5, Math.max(-0.5, value));
    return [limit(point[0], naturalWidth), limit(point[1], naturalHeight)].map(
      (value) => Math.round(100 * value) / 100,
    );
  }

  /** From the canvas to the photo, whose first pixel has its centre at 0, 0. */
  #inPhoto([x, y]) {
    return this.inside([
      (x - this.#left) / this.#scale - 0.5,
      (y - this.#top) / this.#scale - 0.5,
    ]);
  }

  #onCanvas([x, y]) {
    return [this.#left + (x + 0.5) * this.#scale, this.#top + (y + 0.5) * this.#scale];
  }

  /** Where on the canvas an event is, in CSS pixels. */
  #at(event) {
    const { left, top } = this.#canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  /** The nearest point within reach, or -1. */
  #hit([x, y]) {
    const gaps = this.#points.map((point) => {
      const [across, down] = Array.isArray(point) ? this.#onCanvas(point) : [Infinity, Infinity];
      return Math.hypot(across - x, down - y);
    });
    const least = Math.min(...gaps);
    return least <= REACH ? gaps.indexOf(least) : -1;
  }

  #press(event) {
    if (!this.#image || event.button > 1) {
      return;
    }
    const at = this.#at(event);
    this.#canvas.setPointerCapture(event.pointerId);
    const hit = event.button === 0 ? this.#hit(at) : -1;
    const grabbed = hit < 0 ? at : this.#onCanvas(this.#points[hit]);
    this.#drag = { start: at, last: at, hit, moved: false, button: event.button };
    this.#drag.offset = [grabbed[0] - at[0], grabbed[1] - at[1]];
  }

  #follow(event) {
    const drag = this.#drag;
    if (!drag) {
      return;
    }
    const at = this.#at(event);
    const first = !drag.moved;
    if (first && Math.hypot(at[0] - drag.start[0], at[1] - drag.start[1]) < STILL) {
      return;
    }
    drag.moved = true;
    if (drag.hit >= 0) {
      this.#on.move(drag.hit, this.#dragged(drag, at), false, first);
    } else {
      this.#left += at[0] - drag.last[0];
      this.#top += at[1] - drag.last[1];
      this.#fitted = false;
      this.#render();
    }
    drag.last = at;
  }

  #release(event) {
    const drag = this.#drag;
    this.#drag = null;
    if (!drag || !this.#image) {
      return;
    }
    if (drag.moved && drag.hit >= 0) {
      this.#on.move(drag.hit, this.#dragged(drag, drag.last), true, false);
    } else if (!drag.moved && drag.button === 0 && event.type === 'pointerup') {
      this.#on.place(this.#inPhoto(drag.start), drag.hit);
    }
  }

  /** Where the dragged point is, which was not grabbed exactly in its middle. */
  #dragged({ offset: [across, down] }, [x, y]) {
    return this.#inPhoto([x + across, y + down]);
  }

  #render() {
    const canvas = this.#canvas;
    const unit = devicePixelRatio || 1;
    const box = canvas.getBoundingClientRect();
    const [width, height] = [box.width, box.height].map((side) =>
      Math.max(1, Math.round(side * unit)),
    );
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext('2d');
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.#image) {
      return;
    }
    context.setTransform(width / box.width, 0, 0, height / box.height, 0, 0);
    context.imageSmoothingEnabled = this.#scale < 4; // then pixels are to be seen
    context.imageSmoothingQuality = 'high';
    const { naturalWidth, naturalHeight } = this.#image;
    const size = [naturalWidth * this.#scale, naturalHeight * this.#scale];
    context.drawImage(this.#image, this.#left, this.#top, ...size);
    this.#points.forEach((point, i) => {
      if (Array.isArray(point)) {
        this.#mark(context, this.#onCanvas(point), i);
      }
    });
  }

  /** A ring around a point, which stays in view, and its number. */
  #mark(context, [x, y], number) {
    const radius = number === this.#selected ? 1.5 * RADIUS : RADIUS;
    for (const [width, color] of [
      [5, '#000c'],
      [3.5, '#fff'],
      [2, this.#colors[number]],
    ]) {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.lineWidth = width;
      context.strokeStyle = color;
      context.stroke();
    }
    context.fillStyle = this.#colors[number];
    context.fillRect(x - 0.75, y - 0.75, 1.5, 1.5);
    context.font = '600 13px system-ui, sans-serif';
    context.lineJoin = 'round';
    context.lineWidth = 3;
    context.strokeStyle = '#000c';
    const text = [String(number + 1), x + radius + 3, y - radius];
    context.strokeText(...text);
    context.fillStyle = '#fff';
    context.fillText(...text);
  }
}
