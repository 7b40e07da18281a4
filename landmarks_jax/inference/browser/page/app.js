/** The page: connects images, camera, detector and display. */

import { Detector, trainedRectangle } from './detector.js';
import { cut, drawSmall, entriesOf } from './entries.js';
import { Gallery } from './gallery.js';
import { Live } from './live.js';
import { hush, say } from './messages.js';
import { decode, paint, pixelsOf } from './images.js';
import { download, toCsv, toJson } from './save.js';
import { Viewer, style } from './viewer.js';

/** @typedef {import('./entries.js').Entry} Entry */

const part = (id) => document.getElementById(id);
const gallery = new Gallery(part('images'), select);
const refresh = latest(findAgain);
/** @type {Detector} */
let detector;
/** @type {Viewer} */
let viewer;
/** @type {Live} */
let live;
/** The image that was selected last. @type {?Entry} */
let chosen = null;

const loading = Detector.load().then((loaded) => {
  detector = loaded;
  viewer = new Viewer(detector.description, (shown) => {
    if (shown.entry) {
      refresh().catch(fail);
    } else {
      part('find').checked = false; // else the next frame of the camera would move it back
    }
  });
  part('find').checked = detector.findsFaces;
  for (const id of ['find-switch', 'finder']) {
    part(id).hidden = !detector.findsFaces;
  }
  live = new Live(detector, viewer);
  part('about').textContent = about(detector.description);
  say('The detector is ready.');
});
loading.catch((error) => say(`The detector cannot be loaded: ${error.message}.`, { wrong: true }));
/** Processes files one after the other, once the detector is loaded. */
let queue = loading;

/** One line about the detector. */
function about({ name, num_landmarks, view_size, score }) {
  const text = `Detector “${name}”: ${num_landmarks} points, looks at ${view_size} × ${view_size} pixels.`;
  if (!score) {
    return text;
  }
  return (
    `${text} Its labelled points are off by ${score.forward.toFixed(1)} % of the distance between ` +
    `the first two (of faces, the eyes), on average over ${score.score.faces} images ` +
    `(${score.protocol}, ${score.crop} crop); the mean shape is off by ` +
    `${score.mean_shape.toFixed(1)} %.`
  );
}

/** Adds image files and shows the first one. */
function addFiles(/** @type {Iterable<File>} */ files) {
  const list = [...files];
  const work = async () => {
    live.stop();
    hush();
    let shownAny = false;
    let images = 0;
    let faces = 0;
    for (const file of list) {
      try {
        const source = await decode(file);
        const { width, height } = source;
        const rectangle = trainedRectangle(detector.description, width, height);
        const entries = await add(file.name, file, source, rectangle);
        images += entries[0].found ? 1 : 0;
        faces += entries.filter(({ face }) => face).length;
        if (!shownAny) {
          show(entries[0], source);
          shownAny = true;
        }
      } catch (error) {
        say(`${file.name || 'The input'} ${error.message}.`, { wrong: true, more: true });
      }
    }
    if (images) {
      const of = faces ? `of ${counted(faces, 'face')} ` : '';
      say(`Points ${of}found in ${counted(images, 'image')}.`, { more: true });
    }
  };
  queue = queue.then(work);
  queue.catch(() => {}); // the detector cannot be loaded, already reported
}

/** Such as "2 faces". */
function counted(count, what) {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** Finds the points of an image and adds its entries to the gallery. */
async function add(name, file, source, rectangle) {
  const finding = part('find').checked;
  const entries = await entriesOf(detector, name, file, source, rectangle, finding);
  for (const entry of entries) {
    entry.canvas = gallery.add(entry);
    drawSmall(entry, detector.description, style());
  }
  if (!entries[0].found) {
    say(`${name}: no face was found; drag the frame around one.`, { more: true });
  }
  return entries;
}

/** Shows an image of the gallery, unless another was selected while it was decoded. */
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

/** Shows an image, unless it was removed or the camera was started meanwhile. */
function show(/** @type {Entry} */ entry, source) {
  if (gallery.entries.includes(entry) && !live.on) {
    chosen = entry;
    const { rectangle, found } = entry;
    const others = gallery.entries
      .filter((other) => other !== entry && other.file === entry.file && other.found)
      .map((other) => other.found);
    viewer.show({ entry, source, rectangle, found, others, pixels: null });
    gallery.mark(entry);
  }
}

/** Finds the points of the shown image again after its frame has changed. */
async function findAgain() {
  const { shown } = viewer;
  if (shown?.entry) {
    shown.pixels ??= pixelsOf(shown.source);
    const { rectangle } = shown;
    const found = await detector.find(shown.pixels, rectangle);
    shown.found = found;
    Object.assign(shown.entry, { rectangle, found }); // together: they are saved together
    cut(shown.entry, shown.source);
    drawSmall(shown.entry, detector.description, style());
    viewer.render();
  }
}

/** Reports an unexpected error. */
function fail(error) {
  say(`Something went wrong: ${error.message}.`, { wrong: true });
}

/** Wraps `work` so that it never overlaps: calls meanwhile become one more call at its end. */
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

/** Removes the shown image. */
function removeShown() {
  const { entry } = viewer.shown;
  if (!gallery.entries.includes(entry)) {
    return; // already removed: the next one is still being decoded
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

/** Opens the selected camera, or any. */
async function startCamera(device = '') {
  try {
    await loading;
  } catch {
    return; // already reported
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

/** Closes the camera and shows the last image, if there is one. */
function stopCamera() {
  live.stop();
  hush();
  showLast();
}

/** Shows the last image of the gallery, if there is one. */
function showLast() {
  const last = gallery.entries.at(-1);
  if (last) {
    select(last);
  }
}

/** Adds the camera's current frame to the gallery. */
async function keep() {
  const { source, rectangle } = viewer.shown;
  const copy = document.createElement('canvas');
  paint(copy, source, source.width, source.height);
  const file = await new Promise((resolve) => copy.toBlob(resolve, 'image/png'));
  const name = `camera-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.png`;
  hush();
  await add(name, file, copy, rectangle);
  say(`${name} was added.`, { more: true });
}

/** Saves all points. */
function save(name, type, write) {
  const entries = gallery.entries.filter(({ found }) => found);
  if (entries.length) {
    download(name, type, write(detector.description, entries));
  } else {
    say('There is nothing to save yet: no image of the gallery has points.', { wrong: true });
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
    gallery.entries.forEach((entry) => drawSmall(entry, detector.description, style()));
    viewer.render();
  });
}
document.addEventListener('paste', ({ clipboardData }) => {
  if (clipboardData?.files.length) {
    addFiles(clipboardData.files);
  }
});
// Anywhere on the page: a browser would open a file dropped beside the drop area.
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
