/** Runs the detector on the camera's frames, as fast as it can. */

import { Camera } from './camera.js';
import { trainedRectangle } from './detector.js';
import { say } from './messages.js';
import { paint, pixelsOf } from './images.js';

/** @typedef {import('./detector.js').Detector} Detector */
/** @typedef {import('./viewer.js').Viewer} Viewer */

const TABLE_EVERY = 250; // milliseconds
const RATE_OVER = 2000; // milliseconds

const part = (id) => document.getElementById(id);

export class Live {
  #camera = new Camera();
  #detector;
  #viewer;
  /** The current run; replacing it, also by null, ends it. */
  #run = null;

  /**
   * @param {Detector} detector
   * @param {Viewer} viewer
   */
  constructor(detector, viewer) {
    this.#detector = detector;
    this.#viewer = viewer;
  }

  /** Whether the camera is on. */
  get on() {
    return this.#run !== null;
  }

  /**
   * Opens a camera and finds points in its frames until it is stopped.
   * @param {string} device its id, or '' for any.
   * @throws {Error} it cannot be opened, or stops by itself; with a message for the user.
   */
  async start(device = '') {
    const run = {};
    this.#run = run;
    let ended = false;
    try {
      await this.#camera.start(device, () => (ended = true));
      await this.#listDevices();
      await this.#follow(() => {
        if (ended) {
          throw new Error('The camera has stopped.');
        }
        return this.#run === run;
      });
    } catch (error) {
      if (this.#run === run) {
        this.stop();
        throw error;
      }
    }
  }

  /** Closes the camera, if it is open. */
  stop() {
    this.#run = null;
    this.#camera.stop();
    if (this.#viewer.live) {
      this.#viewer.show(null);
    }
  }

  /** Finds and shows points while `running()`. */
  async #follow(running) {
    const source = document.createElement('canvas');
    const times = [];
    let filled = 0;
    while (running()) {
      const video = await this.#camera.frame();
      if (!running() || !video) {
        continue;
      }
      const { videoWidth: width, videoHeight: height } = video;
      const other = source.width !== width || source.height !== height;
      paint(source, video, width, height);
      if (other) {
        const rectangle = trainedRectangle(this.#detector.description, width, height);
        this.#viewer.show({ entry: null, source, rectangle, found: null, others: [] });
        say('The camera is on.');
      }
      const { shown } = this.#viewer;
      const objects = await this.#find(pixelsOf(source), shown.rectangle);
      if (!running()) {
        return;
      }
      [shown.found = null, ...shown.others] = objects;
      if (shown.found && part('find').checked) {
        this.#viewer.move(shown.found.rectangle);
      }
      const now = performance.now();
      times.push(now);
      while (times[0] < now - RATE_OVER) {
        times.shift();
      }
      const due = now - filled > TABLE_EVERY;
      this.#viewer.render(due);
      if (due) {
        filled = now;
        part('rate').textContent = `${rate(times)}${objects.length ? '' : ', no face'}`;
      }
    }
  }

  /** Finds the points of all faces, best first, or of what is in the frame. */
  async #find(pixels, rectangle) {
    const faces = part('find').checked ? await this.#detector.findFaces(pixels) : [{ rectangle }];
    const objects = [];
    for (const face of faces) {
      objects.push(await this.#detector.find(pixels, face.rectangle));
    }
    return objects;
  }

  /** Fills the list of cameras. */
  async #listDevices() {
    const devices = await Camera.devices();
    part('device').replaceChildren(
      ...devices.map(({ label, deviceId }, i) => new Option(label || `${i + 1}`, deviceId)),
    );
    part('device').value = this.#camera.device;
  }
}

/** Frames per second, from the times of the last frames in milliseconds. */
function rate(times) {
  const span = times.at(-1) - times[0];
  return `${(span ? ((times.length - 1) * 1000) / span : 0).toFixed(1)} frames per second`;
}
