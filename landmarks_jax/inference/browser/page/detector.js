/** The detector: an image and a rectangle in, landmarks in pixels of the image out. */

import { findFaces, viewOf } from './faces.js';
import { stretch } from './resize.js';

/** @typedef {import('./resize.js').Pixels} Pixels */
/** @typedef {import('./resize.js').Rectangle} Rectangle */

/**
 * The detector's description, from model.json.
 * @typedef {object} Description
 * @property {string} name
 * @property {string} model file of the ONNX model.
 * @property {number} num_landmarks K.
 * @property {number} view_size side of the views in pixels.
 * @property {number} canvas_size side of the canvases that training cut views from, in pixels.
 * @property {'center'|'tight'|'box'} crop the part of images that training viewed.
 * @property {number} dot_scale scale of the dots, smaller for many landmarks.
 * @property {string[]} colors of the K landmarks.
 * @property {string[]} landmark_names of the K landmarks, or none.
 * @property {number} num_labelled P, 0 without a regressor.
 * @property {string[]} point_names of the P labelled points, or none.
 * @property {?object} score its score on labelled faces.
 * @property {?string} finder file of the ONNX model that finds faces, or null.
 * @property {?{x: number, y: number, side: number}} face_frame what to view of a found face.
 */

/**
 * Points are [x, y] in pixels of the image, the centre of its first pixel at 0, 0.
 * @typedef {object} Found
 * @property {number[][]} landmarks K points.
 * @property {number[]} confidence K values in [0, 1].
 * @property {number[][]} labelled P points, or none.
 * @property {Rectangle} rectangle the viewed part.
 */

/**
 * A face that was found.
 * @typedef {object} FoundFace
 * @property {Rectangle} rectangle the part to view.
 * @property {number} score in [0, 1].
 */

/** The part of an image that training would view. */
export function trainedRectangle(/** @type {Description} */ description, width, height) {
  if (description.crop !== 'center') {
    return [0, 0, width, height];
  }
  const border = (1 - description.view_size / description.canvas_size) / 2;
  return [border * width, border * height, (1 - border) * width, (1 - border) * height];
}

export class Detector {
  /** @type {Worker} */
  #worker;
  #next = 0;
  /** @type {Map<number, {resolve: Function, reject: Function}>} */
  #waiting = new Map();

  /** Use `Detector.load`. */
  constructor(/** @type {Description} */ description, worker) {
    this.description = description;
    this.#worker = worker;
    worker.addEventListener('message', ({ data }) => {
      const { resolve, reject } = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if (data.error === undefined) {
        resolve(data.outputs);
      } else {
        reject(new Error(data.error));
      }
    });
  }

  /**
   * Loads model.json, the models that it names, and the runtime.
   * @returns {Promise<Detector>}
   */
  static async load() {
    const description = await (await fetched('model.json')).json();
    const models = { detector: await (await fetched(description.model)).arrayBuffer() };
    if (description.finder) {
      models.finder = await (await fetched(description.finder)).arrayBuffer();
    }
    const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    // Threads share memory, which browsers allow only with two HTTP headers.
    const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    await new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => (data.ready ? resolve() : reject(new Error(data.error)));
      worker.onerror = (event) => reject(new Error(event.message || 'worker.js cannot be loaded'));
      worker.postMessage({ models, threads }, Object.values(models));
    });
    worker.onmessage = null;
    return new Detector(description, worker);
  }

  /**
   * Finds the landmarks of an image.
   * @param {Pixels} pixels
   * @param {Rectangle} rectangle the part to view.
   * @returns {Promise<Found>}
   */
  async find(pixels, rectangle) {
    const size = this.description.view_size;
    const view = stretch(pixels, rectangle, size);
    const outputs = await this.#run('detector', 'uint8', view, [1, size, size, 3]);
    return {
      landmarks: inImage(outputs.landmarks, rectangle),
      confidence: Array.from(outputs.confidence),
      labelled: inImage(outputs.labelled ?? [], rectangle),
      rectangle,
    };
  }

  /** Whether it finds faces by itself. */
  get findsFaces() {
    return this.description.finder !== null;
  }

  /**
   * Finds the faces of an image.
   * @param {Pixels} pixels
   * @returns {Promise<FoundFace[]>} best first.
   */
  async findFaces(pixels) {
    const faces = await findFaces(pixels, (planes, width, height) =>
      this.#run('finder', 'float32', planes, [1, 3, height, width]),
    );
    const { face_frame } = this.description;
    return faces.map(({ box, score }) => ({ rectangle: viewOf(box, face_frame), score }));
  }

  /** The outputs of a network by name, for its input. */
  #run(name, type, data, dims) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, name, type, data, dims }, [data.buffer]);
    });
  }
}

/** Converts points x1, y1, x2, ... in [-1, 1] of the view to pixels of the image. */
function inImage(flat, [left, top, right, bottom]) {
  const points = [];
  for (let i = 0; i < flat.length; i += 2) {
    const x = ((flat[i] + 1) / 2) * (right - left) + left - 0.5;
    const y = ((flat[i + 1] + 1) / 2) * (bottom - top) + top - 0.5;
    points.push([x, y]);
  }
  return points;
}

/** Fetches a file next to this one. */
async function fetched(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) {
    throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  }
  return answer;
}
