/** Decodes image files like landmarks_jax/data/decoding.py. */

/** @typedef {import('./resize.js').Pixels} Pixels */

/**
 * Decodes an image file: rotated upright by its EXIF data, colours as stored, over white.
 *
 * @param {Blob} file
 * @returns {Promise<HTMLCanvasElement>} the image at full size.
 * @throws {Error} the browser cannot read it; with a message for the user.
 */
export async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: 'from-image',
      colorSpaceConversion: 'none',
    });
  } catch {
    throw new Error('is not an image that this browser can read');
  }
  const canvas = document.createElement('canvas');
  paint(canvas, bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  try {
    canvas.getContext('2d').getImageData(0, 0, 1, 1);
  } catch {
    throw new Error(`is too large for this browser (${canvas.width} × ${canvas.height})`);
  }
  return canvas;
}

/** Paints an image or video frame on a canvas, transparent parts over white. */
export function paint(canvas, source, width, height) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext('2d', { alpha: false, willReadFrequently: true });
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

/** A copy of a canvas, at most `side` pixels wide and high. */
export function thumbnail(canvas, side) {
  const scale = Math.min(1, side / Math.max(canvas.width, canvas.height));
  const small = document.createElement('canvas');
  small.width = Math.max(1, Math.round(canvas.width * scale));
  small.height = Math.max(1, Math.round(canvas.height * scale));
  const context = small.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(canvas, 0, 0, small.width, small.height);
  return small;
}
