/**
 * Finds faces by YuNet like landmarks_jax/inference/face_finder.py, which runs it in OpenCV: the
 * same resize, the same reading of the network's outputs, the same choice among overlapping boxes.
 */

/** @typedef {import('./resize.js').Pixels} Pixels */
/** @typedef {import('./resize.js').Rectangle} Rectangle */

/**
 * @typedef {object} Face
 * @property {Rectangle} box around it; may reach beyond the image.
 * @property {number} score in [0, 1].
 */

const [LARGEST, SMALLEST] = [1280, 320]; // longest side of the image that the network looks at
const MIN_SCORE = 0.6; // of a face
const MAX_IOU = 0.3; // of boxes of different faces
const STRIDES = [8, 16, 32]; // pixels a cell of the outputs
const DIVISOR = 32; // of the input's sides
const MIN_SIDE = 64; // of the input, as in Python

/**
 * The faces of an image, best first.
 *
 * @param {Pixels} image
 * @param {(planes: Float32Array, width: number, height: number) => Promise<Object<string,
 *   Float32Array>>} run the network: blue, green and red `[3, height, width]` in, outputs by name.
 * @returns {Promise<Face[]>}
 */
export async function findFaces(image, run) {
  const longest = Math.max(image.width, image.height);
  const sides = new Set([SMALLEST, Math.min(Math.max(longest, SMALLEST), LARGEST)]);
  const found = [];
  for (const side of sides) {
    const scale = side / longest;
    const [across, down] = [image.width, image.height].map((n) => Math.max(1, even(n * scale)));
    const [width, height] = [across, down].map((n) =>
      Math.max(MIN_SIDE, Math.ceil(n / DIVISOR) * DIVISOR),
    );
    const outputs = await run(planes(image, across, down, width, height), width, height);
    for (const { box, score } of best(decode(outputs, width, height))) {
      found.push({ box: box.map((edge) => edge / scale), score });
    }
  }
  return best(found);
}

/**
 * The square part of the image to view of a face, as `FaceFrame.views` in Python.
 * @param {Rectangle} box
 * @param {{x: number, y: number, side: number}} frame in units of the root of the box's area.
 * @returns {Rectangle}
 */
export function viewOf([left, top, right, bottom], { x, y, side }) {
  const unit = Math.sqrt((right - left) * (bottom - top));
  const [across, down] = [(left + right) / 2 + unit * x, (top + bottom) / 2 + unit * y];
  const half = (side * unit) / 2;
  return [across - half, down - half, across + half, down + half];
}

/** The faces in the network's outputs for an input of `width` x `height`. */
function decode(outputs, width, height) {
  const faces = [];
  for (const stride of STRIDES) {
    const [cls, obj, bbox] = ['cls', 'obj', 'bbox'].map((name) => outputs[`${name}_${stride}`]);
    const columns = width / stride;
    for (let i = 0; i < (columns * height) / stride; i++) {
      const score = Math.sqrt(share(cls[i]) * share(obj[i]));
      if (score < MIN_SCORE) {
        continue;
      }
      const [x, y, wide, high] = bbox.subarray(4 * i, 4 * i + 4);
      const [across, down] = [(i % columns) + x, Math.floor(i / columns) + y];
      const [right, below] = [Math.exp(wide) / 2, Math.exp(high) / 2];
      const box = [across - right, down - below, across + right, down + below];
      faces.push({ box: box.map((edge) => edge * stride), score });
    }
  }
  return faces;
}

/** The faces, best first, without those that overlap a better one. */
function best(/** @type {Face[]} */ faces) {
  const kept = [];
  for (const face of [...faces].sort((a, b) => b.score - a.score)) {
    if (kept.every((better) => iou(better.box, face.box) <= MAX_IOU)) {
      kept.push(face);
    }
  }
  return kept;
}

/** Intersection over union. */
function iou(box, other) {
  const area = ([left, top, right, bottom]) =>
    Math.max(0, right - left) * Math.max(0, bottom - top);
  const both = box.map((edge, i) => (i < 2 ? Math.max : Math.min)(edge, other[i]));
  return area(both) / (area(box) + area(other) - area(both));
}

/**
 * The network's input: the image resized to `across` x `down`, black to its right and below.
 *
 * As OpenCV does it, which is INTER_AREA where the image shrinks and INTER_LINEAR where it grows.
 */
function planes({ data, width, height }, across, down, wide, high) {
  const [columns, rows] = [weights(width, across), weights(height, down)];
  const input = new Float32Array(3 * wide * high);
  const row = new Float32Array(3 * across); // blue, green and red
  const sums = new Float32Array(3 * across);
  for (let y = 0; y < down; y++) {
    sums.fill(0);
    for (let i = 0; i < rows.counts[y]; i++) {
      const from = rows.starts[y] + i;
      resizeRow(data.subarray(4 * width * from, 4 * width * (from + 1)), columns, row);
      const weight = rows.values[y * rows.most + i];
      for (let x = 0; x < sums.length; x++) {
        sums[x] += weight * row[x];
      }
    }
    for (let plane = 0; plane < 3; plane++) {
      for (let x = 0; x < across; x++) {
        input[(plane * high + y) * wide + x] = Math.round(sums[plane * across + x]);
      }
    }
  }
  return input;
}

/** Resizes a row of RGBA pixels to rows of blue, green and red. */
function resizeRow(pixels, { starts, counts, values, most }, row) {
  const across = starts.length;
  for (let x = 0; x < across; x++) {
    let [blue, green, red] = [0, 0, 0];
    for (let i = 0; i < counts[x]; i++) {
      const weight = values[x * most + i];
      const from = 4 * (starts[x] + i);
      red += weight * pixels[from];
      green += weight * pixels[from + 1];
      blue += weight * pixels[from + 2];
    }
    row[x] = blue;
    row[across + x] = green;
    row[2 * across + x] = red;
  }
}

/**
 * How an axis of some length is resized to `size`: output i is the sum of `counts[i]` pixels from
 * `starts[i]` on, with weights from `values[i * most]` on.
 */
function weights(length, size) {
  const scale = length / size;
  const most = Math.ceil(scale) + 2;
  const [starts, counts] = [new Int32Array(size), new Int32Array(size)];
  const values = new Float32Array(size * most);
  for (let i = 0; i < size; i++) {
    if (scale > 1) {
      const [low, high] = [i * scale, Math.min((i + 1) * scale, length)];
      starts[i] = Math.floor(low);
      counts[i] = Math.ceil(high) - starts[i];
      for (let k = 0; k < counts[i]; k++) {
        const pixel = starts[i] + k;
        const inside = Math.min(pixel + 1, high) - Math.max(pixel, low);
        values[i * most + k] = inside / (high - low);
      }
    } else {
      const at = Math.min(Math.max((i + 0.5) * scale - 0.5, 0), length - 1);
      starts[i] = Math.floor(at);
      counts[i] = at > starts[i] ? 2 : 1;
      values[i * most] = 1 - (at - starts[i]);
      values[i * most + 1] = at - starts[i];
    }
  }
  return { starts, counts, values, most };
}

/** A share in [0, 1]. */
function share(value) {
  return Math.min(Math.max(value, 0), 1);
}

/** Rounded, halves to even as Python does. */
function even(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
