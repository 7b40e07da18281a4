/** Draws images with their points. */

/** @typedef {import('./detector.js').Description} Description */
/** @typedef {import('./detector.js').Found} Found */
/** @typedef {import('./resize.js').Rectangle} Rectangle */

/** Radii in the side of a view, at least: dots of small faces are smaller. */
const SMALL_VIEW = 36;
/** CSS pixels from landmark to landmark, about; with less their numbers would hide the object. */
const NUMBER_ROOM = 18;

/**
 * What to draw, and how.
 * @typedef {object} Style
 * @property {boolean} numbers write each landmark's number beside it.
 * @property {boolean} labelled draw the labelled points too.
 * @property {boolean} fade draw landmarks of low confidence fainter.
 * @property {boolean} mirrored flip the image.
 */

/**
 * Draws an image over the whole of a canvas, and the points of the objects in it.
 *
 * @param {HTMLCanvasElement} target
 * @param {HTMLCanvasElement} image
 * @param {Rectangle} part what `image` shows of the image that the points refer to.
 * @param {Found[]} objects the first gets numbers, and lies above the others.
 * @param {Description} description
 * @param {Style} style
 * @param {number} unit device pixels per CSS pixel.
 */
export function draw(target, image, part, objects, description, style, unit) {
  const context = target.getContext('2d');
  context.save();
  if (style.mirrored) {
    context.translate(target.width, 0);
    context.scale(-1, 1);
  }
  context.imageSmoothingQuality = 'high';
  context.drawImage(image, 0, 0, target.width, target.height);
  context.restore();
  const [left, top, right, bottom] = part;
  const place = ([x, y]) => {
    const across = (x + 0.5 - left) / (right - left);
    return [
      (style.mirrored ? 1 - across : across) * target.width,
      ((y + 0.5 - top) / (bottom - top)) * target.height,
    ];
  };
  const few = Math.min(6, Math.max(2.5, target.width / unit / 80));
  [...objects].reverse().forEach((found, i) => {
    const viewed = (found.rectangle[2] - found.rectangle[0]) / (right - left);
    const width = (viewed * target.width) / unit;
    const share = Math.max(1, width / SMALL_VIEW);
    const radius = unit * Math.min(few, share) * description.dot_scale;
    const legible = width / Math.sqrt(found.landmarks.length) > NUMBER_ROOM;
    const numbers = style.numbers && legible && i === objects.length - 1;
    drawPoints(context, place, radius, unit, found, description, { ...style, numbers });
  });
}

/** Draws the points of an object. */
function drawPoints(context, place, radius, unit, found, description, style) {
  if (style.labelled) {
    found.labelled.forEach((point) => cross(context, place(point), radius));
  }
  found.landmarks.forEach((point, i) => {
    context.globalAlpha = style.fade ? 0.15 + 0.85 * found.confidence[i] : 1;
    dot(context, place(point), radius, description.colors[i]);
  });
  context.globalAlpha = 1;
  if (style.numbers) {
    context.font = `600 ${Math.max(2.4 * radius, 9 * unit)}px system-ui, sans-serif`;
    found.landmarks.forEach((point, i) => number(context, place(point), radius, i + 1));
  }
}

/** A landmark: filled, with a dark and a light rim, visible on skin and hair alike. */
function dot(context, [x, y], radius, color) {
  const rims = [
    [radius * 1.5, '#000c'],
    [radius * 1.3, '#fff'],
    [radius, color],
  ];
  for (const [reach, fill] of rims) {
    context.beginPath();
    context.arc(x, y, reach, 0, 2 * Math.PI);
    context.fillStyle = fill;
    context.fill();
  }
}

/** A labelled point. */
function cross(context, [x, y], radius) {
  const arm = radius * 1.3;
  for (const [width, color] of [
    [radius * 1.1, '#000'],
    [radius * 0.5, '#fff'],
  ]) {
    context.beginPath();
    context.moveTo(x - arm, y - arm);
    context.lineTo(x + arm, y + arm);
    context.moveTo(x + arm, y - arm);
    context.lineTo(x - arm, y + arm);
    context.lineWidth = width;
    context.lineCap = 'round';
    context.strokeStyle = color;
    context.stroke();
  }
}

/** A landmark's number, to its upper right. */
function number(context, [x, y], radius, value) {
  const [left, base] = [x + radius * 1.5, y - radius * 1.1];
  context.lineJoin = 'round';
  context.lineWidth = radius * 0.7;
  context.strokeStyle = '#000c';
  context.strokeText(String(value), left, base);
  context.fillStyle = '#fff';
  context.fillText(String(value), left, base);
}
