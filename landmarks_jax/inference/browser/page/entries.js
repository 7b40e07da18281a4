/** The entries of the gallery: one for each face of an image, or one for an image. */

import { draw } from './draw.js';
import { pixelsOf, thumbnail } from './images.js';

/** @typedef {import('./detector.js').Description} Description */
/** @typedef {import('./detector.js').Detector} Detector */
/** @typedef {import('./detector.js').FoundFace} FoundFace */
/** @typedef {import('./detector.js').Found} Found */
/** @typedef {import('./draw.js').Style} Style */
/** @typedef {import('./resize.js').Rectangle} Rectangle */

/**
 * An image, or a face in it, and its points.
 * @typedef {object} Entry
 * @property {string} name of the file.
 * @property {string} label of its button.
 * @property {Blob} file shared by the faces of an image.
 * @property {number} width of the image in pixels, upright.
 * @property {number} height
 * @property {?FoundFace} face as it was found, or null.
 * @property {Rectangle} rectangle the viewed part.
 * @property {?Found} found null for an image without a face until its frame is moved.
 * @property {Rectangle} visible the part that its thumbnail shows.
 * @property {HTMLCanvasElement} small its thumbnail.
 * @property {HTMLCanvasElement} canvas its thumbnail with points, in the gallery.
 */

const SMALL = 240; // pixels

/**
 * Finds the points of an image.
 *
 * @param {Detector} detector
 * @param {string} name
 * @param {Blob} file
 * @param {HTMLCanvasElement} source the decoded image.
 * @param {Rectangle} rectangle the part to view where no faces are found.
 * @param {boolean} finding whether to find faces.
 * @returns {Promise<Entry[]>} without `canvas`; best face first, never empty.
 */
export async function entriesOf(detector, name, file, source, rectangle, finding) {
  const pixels = pixelsOf(source);
  const { width, height } = source;
  const faces = finding ? await detector.findFaces(pixels) : [];
  const entries = [];
  for (const face of faces.length ? faces : [null]) {
    const view = face?.rectangle ?? rectangle;
    const found = finding && !face ? null : await detector.find(pixels, view);
    const label = faces.length > 1 ? `Face ${entries.length + 1}, ${name}` : name;
    const entry = { name, label, file, width, height, face, rectangle: view, found };
    cut(entry, source);
    entries.push(entry);
  }
  return entries;
}

/** Cuts an entry's thumbnail: a face and its surroundings, or the whole image. */
export function cut(/** @type {Entry} */ entry, source) {
  const { width, height, rectangle } = entry;
  const [left, top, right, bottom] = rectangle;
  const margin = (right - left) / 4;
  entry.visible = entry.face
    ? [
        Math.max(0, left - margin),
        Math.max(0, top - margin),
        Math.min(width, right + margin),
        Math.min(height, bottom + margin),
      ]
    : [0, 0, width, height];
  entry.small = thumbnail(source, entry.visible, SMALL);
}

/**
 * Draws an entry's thumbnail and its points.
 * @param {Entry} entry
 * @param {Description} description
 * @param {Style} style
 */
export function drawSmall({ canvas, small, visible, found }, description, style) {
  canvas.width = small.width;
  canvas.height = small.height;
  const looks = { ...style, numbers: false };
  draw(canvas, small, visible, found ? [found] : [], description, looks, 1);
}
