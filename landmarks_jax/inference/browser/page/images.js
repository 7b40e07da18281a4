/** Decodes image files like landmarks_jax/data/decoding.py. */

import { cutExif } from './metadata.js';

/** @typedef {import('./resize.js').Pixels} Pixels */

/**
 * By EXIF orientation, the canvas transform that shows an image upright, given its stored width and
 * height.
 */
const TRANSFORMS = {
  1: () => [1, 0, 0, 1, 0, 0],
  2: (width) => [-1, 0, 0, 1, width, 0],
  3: (width, height) => [-1, 0, 0, -1, width, height],
  4: (width, height) => [1, 0, 0, -1, 0, height],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (width, height) => [0, 1, -1, 0, height, 0],
  7: (width, height) => [0, -1, -1, 0, height, width],
  8: (width) => [0, -1, 1, 0, 0, width],
};

/**
 * Decodes an image file: rotated upright by its EXIF data, colours as stored, over white.
 *
 * @param {Blob} file
 * @returns {Promise<HTMLCanvasElement>} the image at full size.
 * @throws {Error} the browser cannot read it; with a message for the user.
 */
export async function decode(file) {
  let orientation;
  let bitmap;
  try {
    const cut = await cutExif(file);
    ({ orientation } = cut);
    bitmap = await createImageBitmap(cut.stored, {
      imageOrientation: 'from-image', // of AVIF
      colorSpaceConversion: 'none',
    });
  } catch {
    throw new Error('is not an image that this browser can read');
  }
  const canvas = document.createElement('canvas');
  paint(canvas, bitmap, bitmap.width, bitmap.height, orientation);
  bitmap.close();
  try {
    canvas.getContext('2d').getImageData(0, 0, 1, 1);
  } catch {
    throw new Error(`is too large for this browser (${canvas.width} × ${canvas.height})`);
  }
  return canvas;
}

/** Paints an image or video frame of that size on a canvas, upright, transparent parts over white. */
export function paint(canvas, source, width, height, orientation = 1) {
  const sides = orientation > 4 ? [height, width] : [width, height];
  if (canvas.width !== sides[0] || canvas.height !== sides[1]) {
    [canvas.width, canvas.height] = sides;
  }
  const context = canvas.getContext('2d', { alpha: false, willReadFrequently: true });
  context.setTransform(...TRANSFORMS[orientation](width, height));
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
}

/**
 * The pixels of a canvas.
 * @param {HTMLCanvasElement} canvas
 * @returns {Pixels}
 */
export function pixelsOf(canvas) {
  return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
}

/** A copy of a part of a canvas, at most `side` pixels wide and high. */
export function thumbnail(canvas, [left, top, right, bottom], side) {
  const [width, height] = [right - left, bottom - top];
  const scale = Math.min(1, side / Math.max(width, height));
  const small = document.createElement('canvas');
  small.width = Math.max(1, Math.round(width * scale));
  small.height = Math.max(1, Math.round(height * scale));
  const context = small.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(canvas, left, top, width, height, 0, 0, small.width, small.height);
  return small;
}
