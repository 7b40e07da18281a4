/** The page: wires pictures, camera, detector and what is shown together. */

import { Detector, trainedRectangle } from './detector.js';
import { draw } from './draw.js';
import { Gallery } from './gallery.js';
import { Live } from './live.js';
import { hush, say } from './messages.js';
import { decode, paint, pixelsOf, thumbnail } from './pictures.js';
import { download, toCsv, toJson } from './save.js';
import { Viewer, style } from './viewer.js';

/** @typedef {import('./detector.js').Found} Found */
/** @typedef {import('./resize.js').Rectangle} Rectangle */

/**
 * A picture and what was found in it.
 * @typedef {object} Entry
 * @property {string} name
 * @property {Blob} file
 * @property {number} width in pixels, upright.
 * @property {number} height
 * @property {Rectangle} rectangle the part looked at.
 * @property {Found} found
 * @property {HTMLCanvasElement} small the picture, small.
 * @property {HTMLCanvasElement} canvas the small picture with its points, in the gallery.
 */

const SMALL = 240; // pixels

const part = (id) => document.getElementById(id);
const gallery = new Gallery(part('pictures'), select);
const refresh = latest(findAgain);
/** @type {Detector} */
let detector;
/** @type {Viewer} */
let viewer;
/** @type {Live} */
let live;
/** The picture that was last asked for. @type {?Entry} */
let chosen = null;

const loading = Detector.load().then((loaded) => {
  detector = loaded;
  viewer = new Viewer(detector.description, (shown) => {
    if (shown.entry) {
      refresh().catch(fail);
    }
  });
  live = new Live(detector, viewer);
  part('about').textContent = about(detector.description);
  say('The detector is ready.');
});
loading.catch((error) => say(`The detector cannot be loaded: ${error.message}.`, { wrong: true }));
/** Work on files, one after the other, once the detector is there. */
let queue = loading;

/** One line about the detector. */
function about({ name, num_landmarks, view_size, score }) {
  const text = `Detector “${name}”: ${num_landmarks} points, looks at ${view_size} × ${view_size} pixels.`;
  if (!score) {
    return text;
  }
  return (
    `${text} Its labelled points are off by ${score.forward.toFixed(1)} % of the distance between ` +
    `the first two (of faces, the eyes), on average over ${score.score.faces} pictures ` +
    `(${score.protocol}, ${score.crop} crop); the mean shape is off by ` +
    `${score.mean_shape.toFixed(1)} %.`
  );
}

/** Adds picture files and shows the first one of them large. */
function addFiles(/** @type {Iterable<File>} */ files) {
  const list = [...files];
  const work = async () => {
    live.stop();
    hush();
    let count = 0;
    for (const file of list) {
      try {
        const source = await decode(file);
        const { width, height } = source;
        const rectangle = trainedRectangle(detector.description, width, height);
        const entry = await add(file.name, file, source, rectangle);
        if (count++ === 0) {
          show(entry, source);
        }
      } catch (error) {
        say(`${file.name || 'What was given'} ${error.message}.`, { wrong: true, more: true });
      }
    }
    if (count) {
      say(`Points found in ${count} ${count === 1 ? 'picture' : 'pictures'}.`, { more: true });
    }
  };
  queue = queue.then(work);
  queue.catch(() => {}); // the detector cannot be loaded, which was said
}

/** Finds the points of a picture and puts it into the gallery. */
async function add(name, file, source, rectangle) {
  const { width, height } = source;
  const small = thumbnail(source, SMALL);
  const found = await detector.find(pixelsOf(source), rectangle);
  const entry = { name, file, width, height, rectangle, found, small };
  entry.canvas = gallery.add(entry);
  entry.canvas.width = small.width;
  entry.canvas.height = small.height;
  drawSmall(entry);
  return entry;
}

function drawSmall(/** @type {Entry} */ entry) {
  const looks = { ...style(), numbers: false };
  draw(entry.canvas, entry.small, entry, entry.found, detector.description, looks, 1);
}

/** Shows a picture of the gallery large, unless another was chosen while it was decoded. */
async function select(/** @type {Entry} */ entry) {
  live.stop();
  chosen = entry;
  try {
    const source = await decode(entry.file);
    if (chosen === entry) {
      show(entry, source);
    }
  } catch (error) {
    say(`${entry.name} ${error.message}.`, { wrong: true });
  }
}

/** Shows a picture large, unless it was removed or the camera started meanwhile. */
function show(/** @type {Entry} */ entry, source) {
  if (gallery.entries.includes(entry) && !live.on) {
    chosen = entry;
    const { rectangle, found } = entry;
    viewer.show({ entry, source, rectangle, found, pixels: null });
    gallery.mark(entry);
  }
}

/** Finds the points of the picture that is shown, after its frame has changed. */
async function findAgain() {
  const { shown } = viewer;
  if (shown?.entry) {
    shown.pixels ??= pixelsOf(shown.source);
    const { rectangle } = shown;
    const found = await detector.find(shown.pixels, rectangle);
    shown.found = found;
    Object.assign(shown.entry, { rectangle, found }); // together: they are saved together
    drawSmall(shown.entry);
    viewer.render();
  }
}

/** Says what should not happen. */
function fail(error) {
  say(`Something went wrong: ${error.message}.`, { wrong: true });
}

/** Calls `work` never twice at once: calls while it works become one more at its end. */
function latest(work) {
  let working = false;
  let again = false;
  return async () => {
    again = true;
    if (working) {
      return;
    }
    working = true;
    try {
      while (again) {
        again = false;
        await work();
      }
    } finally {
      working = false;
    }
  };
}

/** Takes the picture that is shown off the page. */
function removeShown() {
  const { entry } = viewer.shown;
  if (!gallery.entries.includes(entry)) {
    return; // removed before: the next one is still being decoded
  }
  const next = gallery.remove(entry);
  if (next) {
    select(next);
    gallery.focus(next);
  } else {
    viewer.show(null);
    part('files').focus();
  }
}

/** Opens the camera that the user chose, or any. */
async function startCamera(device = '') {
  try {
    await loading;
  } catch {
    return; // said already
  }
  gallery.mark(null);
  say('The camera starts …');
  live.start(device).catch((error) => {
    say(error.message, { wrong: true });
    if (!viewer.shown) {
      showLast();
    }
  });
}

/** Closes the camera and shows the last picture, if there is one. */
function stopCamera() {
  live.stop();
  hush();
  showLast();
}

/** Shows the last picture of the gallery, if there is one. */
function showLast() {
  const last = gallery.entries.at(-1);
  if (last) {
    select(last);
  }
}

/** Puts the camera's picture of this moment into the gallery. */
async function keep() {
  const { source, rectangle } = viewer.shown;
  const copy = document.createElement('canvas');
  paint(copy, source, source.width, source.height);
  const file = await new Promise((resolve) => copy.toBlob(resolve, 'image/png'));
  const name = `camera-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.png`;
  await add(name, file, copy, rectangle);
  say(`${name} is kept.`);
}

/** Saves the points of all pictures. */
function save(name, type, write) {
  if (gallery.entries.length) {
    download(name, type, write(detector.description, gallery.entries));
  } else {
    say('Keep a picture first: there are no points of pictures to save.', { wrong: true });
  }
}

part('files').addEventListener('change', ({ target }) => {
  addFiles(target.files);
  target.value = ''; // so that the same file can be chosen again
});
part('camera').addEventListener('click', () => (live?.on ? stopCamera() : startCamera()));
part('device').addEventListener('change', ({ target }) => startCamera(target.value));
part('keep').addEventListener('click', () => keep().catch(fail));
part('remove').addEventListener('click', removeShown);
part('csv').addEventListener('click', () => save('landmarks.csv', 'text/csv', toCsv));
part('json').addEventListener('click', () => save('landmarks.json', 'application/json', toJson));
part('mirror').addEventListener('change', () => viewer.show(viewer.shown));
for (const id of ['numbers', 'labelled', 'fade']) {
  part(id).addEventListener('change', () => {
    gallery.entries.forEach(drawSmall);
    viewer.render();
  });
}
document.addEventListener('paste', ({ clipboardData }) => {
  if (clipboardData?.files.length) {
    addFiles(clipboardData.files);
  }
});
// Anywhere on the page: a browser would open a file that misses the place for it.
document.addEventListener('dragover', (event) => {
  event.preventDefault();
  part('drop').classList.add('over');
});
document.addEventListener('dragleave', ({ relatedTarget }) => {
  if (!relatedTarget) {
    part('drop').classList.remove('over');
  }
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  part('drop').classList.remove('over');
  if (event.dataTransfer.files.length) {
    addFiles(event.dataTransfer.files);
  }
});
