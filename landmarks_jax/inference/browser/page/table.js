/** The table of points, also the legend of their colours. */

import { pointNames } from './save.js';

/** @typedef {import('./detector.js').Description} Description */
/** @typedef {import('./detector.js').Found} Found */

export class Table {
  /** @type {HTMLTableRowElement[]} */
  #rows = [];
  #num_landmarks;

  /**
   * @param {HTMLTableSectionElement} body
   * @param {Description} description
   */
  constructor(body, description) {
    this.#num_landmarks = description.num_landmarks;
    const names = description.landmark_names;
    description.colors.forEach((color, i) => this.#add(body, names[i] ?? `${i + 1}`, color));
    pointNames(description).forEach((name) => this.#add(body, name, null));
  }

  #add(body, name, color) {
    const row = body.insertRow();
    const head = document.createElement('th');
    head.scope = 'row';
    const swatch = document.createElement('span');
    swatch.className = color ? 'swatch' : 'cross';
    if (color) {
      swatch.style.backgroundColor = color;
    } else {
      swatch.textContent = '×';
    }
    head.append(swatch, name);
    row.append(head);
    for (let i = 0; i < 3; i++) {
      row.insertCell();
    }
    this.#rows.push(row);
  }

  /**
   * Fills in the table.
   * @param {?Found} found
   * @param {boolean} labelled whether to show the labelled points too.
   */
  fill(found, labelled) {
    const points = [...(found?.landmarks ?? []), ...(found?.labelled ?? [])];
    this.#rows.forEach((row, i) => {
      const [x, y] = points[i] ?? [];
      row.cells[1].textContent = x?.toFixed(1) ?? '';
      row.cells[2].textContent = y?.toFixed(1) ?? '';
      row.cells[3].textContent = found?.confidence[i]?.toFixed(2) ?? '';
      row.hidden = i >= this.#num_landmarks && !labelled;
    });
  }
}
