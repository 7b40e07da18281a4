/** The EXIF orientation of image files, by the rule of landmarks_jax/data/metadata.py. */

/**
 * A block of EXIF data in a file.
 * @typedef {object} Block
 * @property {number} start where its segment or chunk begins.
 * @property {number} end and ends.
 * @property {DataView} exif the data.
 */

const ORIENTATION = 0x0112;
const SHORT = 3;
const UPRIGHT = 1;
const EXIF = 'Exif\0\0';

/**
 * Cuts the EXIF data out of a JPEG, PNG or WebP file: browsers follow different rules. In AVIF its
 * own properties count, which all browsers apply.
 *
 * @param {Blob} file an image file of any format.
 * @returns {Promise<{stored: Blob, orientation: number}>} a file with the same pixels, and the
 *   orientation that the first EXIF block gives, from 1 to 8.
 */
export async function cutExif(file) {
  const view = new DataView(await file.arrayBuffer());
  const blocks = find(view);
  if (!blocks.length) {
    return { stored: file, orientation: UPRIGHT };
  }
  const parts = [];
  let at = 0;
  for (const { start, end } of blocks) {
    parts.push(new Uint8Array(view.buffer, at, start - at));
    at = end;
  }
  parts.push(new Uint8Array(view.buffer, at));
  if (text(view, 0, 4) === 'RIFF') {
    const size = parts.reduce((sum, part) => sum + part.length, 0);
    view.setUint32(4, size - 8, true);
  }
  return { stored: new Blob(parts, { type: file.type }), orientation: orientation(blocks[0].exif) };
}

/** The EXIF blocks of a file, in order. */
function find(/** @type {DataView} */ view) {
  if (text(view, 0, 3) === '\xff\xd8\xff') {
    return findInJpeg(view);
  }
  if (text(view, 0, 8) === '\x89PNG\r\n\x1a\n') {
    return findInPng(view);
  }
  if (text(view, 0, 4) === 'RIFF' && text(view, 8, 4) === 'WEBP') {
    return findInWebp(view);
  }
  return [];
}

function findInJpeg(/** @type {DataView} */ view) {
  const blocks = [];
  let at = 2;
  while (at + 4 <= view.byteLength && view.getUint8(at) === 0xff) {
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) {
      at += 1; // a filler
      continue;
    }
    const size = view.getUint16(at + 2);
    if (marker < 0xc0 || (marker >= 0xd0 && marker <= 0xda) || size < 2) {
      break; // pixels begin
    }
    const end = Math.min(at + 2 + size, view.byteLength);
    if (marker === 0xe1 && text(view, at + 4, EXIF.length) === EXIF) {
      blocks.push({ start: at, end, exif: part(view, at + 4, end) });
    }
    at = end;
  }
  return blocks;
}

function findInPng(/** @type {DataView} */ view) {
  const blocks = [];
  let at = 8;
  let kind = '';
  while (kind !== 'IEND' && at + 12 <= view.byteLength) {
    const end = Math.min(at + 12 + view.getUint32(at), view.byteLength);
    kind = text(view, at + 4, 4);
    if (kind === 'eXIf') {
      const intact = crc32(part(view, at + 4, end - 4)) === view.getUint32(end - 4);
      blocks.push({ start: at, end, exif: part(view, at + 8, intact ? end - 4 : at + 8) });
    }
    at = end;
  }
  return blocks;
}

/** The checksum of a PNG's chunk. */
function crc32(/** @type {DataView} */ data) {
  let sum = ~0;
  for (let i = 0; i < data.byteLength; i++) {
    sum ^= data.getUint8(i);
    for (let bit = 0; bit < 8; bit++) {
      sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
    }
  }
  return ~sum >>> 0;
}

function findInWebp(/** @type {DataView} */ view) {
  const blocks = [];
  let at = 12;
  while (at + 8 <= view.byteLength) {
    const size = view.getUint32(at + 4, true);
    const end = Math.min(at + 8 + size + (size % 2), view.byteLength);
    if (text(view, at, 4) === 'EXIF') {
      blocks.push({ start: at, end, exif: part(view, at + 8, Math.min(at + 8 + size, end)) });
    }
    at = end;
  }
  return blocks;
}

/** The orientation that EXIF data gives, from 1 to 8; 1 if it gives none or is damaged. */
function orientation(/** @type {DataView} */ exif) {
  const tiff = part(exif, text(exif, 0, EXIF.length) === EXIF ? EXIF.length : 0, exif.byteLength);
  const order = text(tiff, 0, 4);
  const little = order === 'II*\0';
  if (!little && order !== 'MM\0*') {
    return UPRIGHT;
  }
  try {
    const start = tiff.getUint32(4, little);
    const count = tiff.getUint16(start, little);
    for (let entry = start + 2; entry < start + 2 + 12 * count; entry += 12) {
      if (tiff.getUint16(entry, little) === ORIENTATION) {
        const short =
          tiff.getUint16(entry + 2, little) === SHORT && tiff.getUint32(entry + 4, little) === 1;
        const value = tiff.getUint16(entry + 8, little);
        return short && value >= 1 && value <= 8 ? value : UPRIGHT;
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError)) {
      throw error;
    }
  } // else the data is truncated
  return UPRIGHT;
}

function part(/** @type {DataView} */ view, start, end) {
  return new DataView(view.buffer, view.byteOffset + start, Math.max(0, end - start));
}

/** The bytes of a view as characters, fewer than `length` at its end. */
function text(/** @type {DataView} */ view, at, length) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  return String.fromCharCode(...bytes.subarray(at, at + length));
}
