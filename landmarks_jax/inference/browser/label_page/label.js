/** The page that labels: photos, their points, and what the keyboard and buttons do. */

import { hush, say } from './messages.js';
import { PhotoView } from './photo_view.js';

/**
 * A point: its place in pixels of the photo (the centre of the first pixel is 0, 0), `MISSING`, or
 * null while it is not set.
 * @typedef {?([number, number]|'missing')} Point
 */

const MISSING = 'missing';
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const UNDO_STEPS = 200;
const part = (id) => document.getElementById(id);

/** `names`, `colors`, and `photos`, each with `name` and `points`. */
let session;
/** @type {PhotoView} */
let view;
/** Number of the photo shown. */
let shown = 0;
/** Number of the selected point. */
let selected = 0;
/** Photos whose points the server does not have yet. */
const unsaved = new Set();
let saving = Promise.resolve();

async function start() {
  const answer = await fetch('session.json');
  session = await answer.json();
  for (const photo of session.photos) {
    const points = photo.points?.map((point) => point ?? MISSING);
    photo.points = points ?? session.names.map(() => null);
    photo.saved = Boolean(points);
    photo.before = [];
  }
  part('file').textContent = session.file;
  part('work').hidden = false;
  hush();
  fillTable();
  view = new PhotoView(part('photo'), session.colors, { place, move });
  connect();
  const first = session.photos.findIndex((photo) => !photo.saved);
  await show(Math.max(0, first));
}

/** @returns {Point[]} of the photo shown. */
function points() {
  return session.photos[shown].points;
}

/** Shows a photo, unless there is none of this number. */
async function show(number) {
  const photo = session.photos[number];
  if (!photo) {
    return;
  }
  shown = number;
  selected = Math.max(0, photo.points.indexOf(null));
  view.clear();
  render();
  const image = await load(number);
  if (shown !== number || !image) {
    return; // another photo was chosen meanwhile
  }
  view.open(image);
  render();
  load(number + 1); // ahead of time
}

/** Loads a photo once; null if it cannot be shown. */
function load(number) {
  const photo = session.photos[number];
  if (photo && !photo.image) {
    const image = new Image();
    image.src = `photos/${number}`;
    photo.image = image.decode().then(
      () => image,
      async () => {
        photo.image = null;
        if (number === shown) {
          const answer = await fetch(`photos/${number}`);
          say(answer.ok ? `${photo.name} cannot be shown.` : await answer.text(), { wrong: true });
        }
        return null;
      },
    );
    session.photos.forEach((other, i) => {
      if (Math.abs(i - number) > 3) {
        other.image = null; // large photos would fill the memory
      }
    });
  }
  return photo?.image;
}

/** Remembers the points for undo. */
function remember() {
  const { before } = session.photos[shown];
  before.push({ points: [...points()], selected });
  before.splice(0, before.length - UNDO_STEPS);
}

/** Sets a point, and selects the next that is not set. */
function set(number, /** @type {Point} */ point) {
  if (!view.ready) {
    return; // nobody has seen the photo
  }
  remember();
  points()[number] = point;
  const after = points().indexOf(null, number + 1);
  const next = after < 0 ? points().indexOf(null) : after;
  selected = next < 0 ? number : next;
  changed();
}

/** A click at a place of the photo, on a point or on none (-1). */
function place(point, hit) {
  if (hit >= 0 && points()[selected] !== null) {
    selected = hit;
    render();
  } else {
    set(selected, point);
  }
}

/** A point was dragged to a place; `over` once it is released. */
function move(number, point, over, first) {
  if (first) {
    remember();
  }
  points()[number] = point;
  selected = number;
  if (over) {
    changed();
  } else {
    render();
  }
}

/** Moves the selected point by some pixels. */
function shift(dx, dy) {
  const point = points()[selected];
  if (view.ready && Array.isArray(point)) {
    remember();
    points()[selected] = view.inside([point[0] + dx, point[1] + dy]);
    changed();
  }
}

function undo() {
  const photo = session.photos[shown];
  const before = photo.before.pop();
  if (before) {
    photo.points = before.points;
    selected = before.selected;
    changed();
  }
}

/** Draws the points, and saves them if all are set. */
function changed() {
  if (points().includes(null)) {
    unsaved.delete(shown);
    if (session.photos[shown].saved) {
      say('The file has this photo as it was saved; set all points to save it again.');
    }
  } else {
    unsaved.add(shown);
    saving = saving.then(save);
  }
  render();
}

/** Sends all points that the server does not have, one photo after the other. */
async function save() {
  for (const number of [...unsaved]) {
    const photo = session.photos[number];
    const sent = photo.points;
    const values = sent.map((point) => (point === MISSING ? null : point));
    if (sent.includes(null)) {
      continue; // undone meanwhile
    }
    const text = JSON.stringify(sent);
    try {
      const body = JSON.stringify({ photo: number, points: values });
      const answer = await fetch('points', { method: 'POST', body });
      if (!answer.ok) {
        throw new Error(await answer.text());
      }
      const { labelled } = await answer.json();
      photo.saved = true;
      if (JSON.stringify(photo.points) === text) {
        unsaved.delete(number);
      }
      render();
      say(`Saved ${photo.name}: ${labelled} of ${session.photos.length} photos are labelled.`);
    } catch (error) {
      say(`${photo.name} is not saved: ${error.message}. The next change tries again.`, {
        wrong: true,
      });
      return;
    }
  }
}

function fillTable() {
  session.names.forEach((name, i) => {
    const row = part('points').insertRow();
    const head = document.createElement('th');
    const swatch = document.createElement('span');
    swatch.className = 'swatch';
    swatch.style.background = session.colors[i];
    head.scope = 'row';
    head.append(swatch, name);
    row.append(head);
    row.insertCell();
    row.insertCell();
    row.addEventListener('click', () => {
      selected = i;
      render();
    });
  });
}

function render() {
  const photo = session.photos[shown];
  view.draw(points(), selected);
  [...part('points').rows].forEach((row, i) => {
    const point = points()[i];
    const set = Array.isArray(point);
    row.ariaSelected = String(i === selected);
    row.cells[1].textContent = set ? point[0].toFixed(2) : (point ?? '');
    row.cells[2].textContent = set ? point[1].toFixed(2) : '';
  });
  const mark = photo.saved ? ', saved' : '';
  part('place').textContent = `Photo ${shown + 1} of ${session.photos.length}: ${photo.name}${mark}`;
  part('photo').setAttribute('aria-label', photo.name);
  part('previous').disabled = shown === 0;
  part('next').disabled = shown === session.photos.length - 1;
  part('undo').disabled = photo.before.length === 0;
}

function connect() {
  const actions = {
    missing: () => set(selected, MISSING),
    undo,
    previous: () => show(shown - 1),
    next: () => show(shown + 1),
    in: () => view.zoom(2),
    out: () => view.zoom(0.5),
    fit: () => view.fit(),
  };
  for (const [id, action] of Object.entries(actions)) {
    part(id).addEventListener('click', action);
  }
  const keys = { m: 'missing', u: 'undo', p: 'previous', n: 'next', '+': 'in', '-': 'out', 0: 'fit' };
  document.addEventListener('keydown', (event) => {
    if (view.dragging) {
      return; // another photo would end the drag, which would overwrite an undo
    }
    const key = event.key.toLowerCase();
    const arrow = ARROWS[event.key];
    if (event.ctrlKey || event.metaKey) {
      if (key === 'z') {
        undo();
        event.preventDefault();
      }
    } else if (arrow) {
      const step = event.shiftKey ? 10 : event.altKey ? 0.1 : 1;
      shift(arrow[0] * step, arrow[1] * step);
      event.preventDefault();
    } else if (key === 'enter' && view.ready && !event.target.closest('button')) {
      set(selected, view.middle());
    } else if (key >= '1' && key <= '9' && Number(key) <= session.names.length) {
      selected = Number(key) - 1;
      render();
    } else if (key in keys) {
      actions[keys[key]]();
    }
  });
  new ResizeObserver(() => view.resize()).observe(part('photo'));
  window.addEventListener('beforeunload', (event) => {
    if (unsaved.size) {
      event.preventDefault();
    }
  });
}

start().catch((error) => say(`The page cannot be loaded: ${error.message}.`, { wrong: true }));
