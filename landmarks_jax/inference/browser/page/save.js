/** Saves points as files. */

/** @typedef {import('./detector.js').Description} Description */
/** @typedef {import('./entries.js').Entry} Entry */

/**
 * A table with the column names of `landmarks-jax detect`: per entry a line with its file, x, y and
 * confidence of each landmark, and x and y of the labelled points.
 *
 * @param {Description} description
 * @param {Entry[]} entries
 */
export function toCsv(description, entries) {
  const own = description.landmark_names.map((name) => name.replaceAll(' ', '_'));
  const column = (axis, i) => (own.length ? `${own[i]}_${axis}` : `${axis}${i + 1}`);
  const landmarks = description.colors.flatMap((_, i) => [...'xyc'].map((axis) => column(axis, i)));
  const names = pointNames(description).map((name) => name.replaceAll(' ', '_'));
  const header = ['file', ...landmarks, ...names.flatMap((name) => [`${name}_x`, `${name}_y`])];
  const lines = entries.map(({ name, found }) => [
    name,
    ...found.landmarks.flatMap((point, i) => [...point, found.confidence[i]]),
    ...found.labelled.flat(),
  ]);
  const text = (value) => (typeof value === 'number' ? String(rounded(value)) : quoted(value));
  return [header, ...lines].map((line) => `${line.map(text).join(',')}\n`).join('');
}

/**
 * Everything about the entries as JSON.
 *
 * @param {Description} description
 * @param {Entry[]} entries
 */
export function toJson(description, entries) {
  const names = pointNames(description);
  const own = description.landmark_names;
  const byName = (values) =>
    own.length ? Object.fromEntries(values.map((value, i) => [own[i], value])) : values;
  const images = entries.map(({ name, width, height, rectangle, found, face }) => ({
    file: name,
    width,
    height,
    box: rectangle.map(rounded),
    score: face?.rectangle === rectangle ? rounded(face.score) : null, // not of a moved frame
    landmarks: byName(found.landmarks.map((point) => point.map(rounded))),
    confidence: byName(found.confidence.map(rounded)),
    labelled: Object.fromEntries(
      found.labelled.map((point, i) => [names[i], point.map(rounded)]),
    ),
  }));
  const points = 'x, y in pixels of the upright image; the centre of its first pixel is 0, 0';
  return `${JSON.stringify({ detector: description.name, points, images }, null, 1)}\n`;
}

/** Names of the labelled points. */
export function pointNames({ point_names, num_labelled }) {
  return Array.from({ length: num_labelled }, (_, i) => point_names[i] ?? `point ${i + 1}`);
}

/** Downloads a file to the user. */
export function download(name, type, text) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A number with four decimals. */
function rounded(value) {
  return Math.round(value * 1e4) / 1e4;
}

/** A field of a CSV file. */
function quoted(value) {
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}
