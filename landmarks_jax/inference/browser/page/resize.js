/**
 * The resize before the detector, bit for bit `stretch` of landmarks_jax/data/framing.py.
 *
 * It is Pillow's bilinear resize of a box: a triangle filter as wide as an output pixel where the
 * image shrinks, along rows and then columns, rounded to 8 bits in between. Like Pillow it computes
 * in fixed point and stores boxes as 32-bit floats. Pixels beyond the image repeat its border.
 */

/** Fractional bits of Pillow's weights. */
const PRECISION = 22;
const HALF = 1 << (PRECISION - 1);

/**
 * An image in memory, such as ImageData of a canvas.
 * @typedef {{data: Uint8ClampedArray|Uint8Array, width: number, height: number}} Pixels
 */

/**
 * Left, top, right and bottom in pixel edges: the whole image is [0, 0, width, height].
 * @typedef {[number, number, number, number]} Rectangle
 */

/**
 * Cuts a rectangle out of an image and stretches it to a square.
 *
 * @param {Pixels} image RGBA; alpha is ignored.
 * @param {Rectangle} rectangle may reach beyond the image.
 * @param {number} size side of the result in pixels.
 * @returns {Uint8Array} RGB, `size * size * 3`.
 */
export function stretch(image, rectangle, size) {
  const [left, top, right, bottom] = rectangle;
  const { data, width, height } = image;
  const across = weights(left, right, width, size);
  const down = weights(top, bottom, height, size);
  // Only the rows that the second pass reads.
  const first = Math.min(...down.starts);
  const last = Math.max(...down.starts.map((start, i) => start + down.counts[i]));
  const rows = new Uint8Array((last - first) * size * 3);
  for (let y = first; y < last; y++) {
    const row = clamp(down.origin + y, height) * width;
    for (let x = 0; x < size; x++) {
      let [r, g, b] = [HALF, HALF, HALF];
      for (let i = 0; i < across.counts[x]; i++) {
        const weight = across.values[x * across.most + i];
        const from = 4 * (row + clamp(across.origin + across.starts[x] + i, width));
        r += weight * data[from];
        g += weight * data[from + 1];
        b += weight * data[from + 2];
      }
      const to = 3 * ((y - first) * size + x);
      rows[to] = toByte(r);
      rows[to + 1] = toByte(g);
      rows[to + 2] = toByte(b);
    }
  }
  const view = new Uint8Array(size * size * 3);
  const stride = size * 3;
  for (let y = 0; y < size; y++) {
    for (let column = 0; column < stride; column++) {
      let sum = HALF;
      for (let i = 0; i < down.counts[y]; i++) {
        const from = (down.starts[y] - first + i) * stride + column;
        sum += down.values[y * down.most + i] * rows[from];
      }
      view[y * stride + column] = toByte(sum);
    }
  }
  return view;
}

/**
 * The weights of one axis.
 *
 * As in Python, indices start at a span: the pixels of the rectangle, also beyond the image, and
 * inside the image one filter width more on each side.
 *
 * @param {number} low the rectangle's lower edge.
 * @param {number} high its upper edge.
 * @param {number} length of the image.
 * @param {number} size of the result.
 * @returns {{origin: number, starts: number[], counts: number[], values: Int32Array, most: number}}
 *   For output i, `counts[i]` weights from `values[i * most]`, the first for the pixel
 *   `origin + starts[i]` of the image.
 */
function weights(low, high, length, size) {
  const reach = Math.ceil(Math.max((high - low) / size, 1)) + 1;
  const origin = Math.min(Math.floor(low), Math.max(0, Math.floor(low) - reach));
  const end = Math.max(Math.ceil(high), Math.min(length, Math.ceil(high) + reach));
  const near = Math.fround(low - origin);
  const far = Math.fround(high - origin);

  const scale = Math.fround(far - near) / size;
  const support = Math.max(scale, 1);
  const most = Math.ceil(support) * 2 + 1;
  const starts = [];
  const counts = [];
  const values = new Int32Array(size * most);
  for (let i = 0; i < size; i++) {
    const center = near + (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const stop = Math.min(end - origin, Math.trunc(center + support + 0.5));
    const triangle = [];
    for (let x = start; x < stop; x++) {
      triangle.push(Math.max(0, 1 - Math.abs((x - center + 0.5) * (1 / support))));
    }
    const total = triangle.reduce((sum, value) => sum + value, 0);
    triangle.forEach((value, x) => {
      values[i * most + x] = Math.trunc(0.5 + value * (1 / total) * (1 << PRECISION));
    });
    starts.push(start);
    counts.push(stop - start);
  }
  return { origin, starts, counts, values, most };
}

/** The index `i` clamped to an axis of some length. */
function clamp(i, length) {
  return i < 0 ? 0 : i >= length ? length - 1 : i;
}

/** A sum of fixed-point products, `HALF` included, as a byte. */
function toByte(sum) {
  const value = sum >> PRECISION;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}
