/** All images, or the faces in them, as a grid of buttons. */

/** @typedef {import('./entries.js').Entry} Entry */

export class Gallery {
  #list;
  #onchoose;
  /** @type {Map<Entry, HTMLLIElement>} */
  #items = new Map();

  /**
   * @param {HTMLUListElement} list
   * @param {(entry: Entry) => void} onchoose called with the image that the user selects.
   */
  constructor(list, onchoose) {
    this.#list = list;
    this.#onchoose = onchoose;
  }

  /** @returns {Entry[]} in the order of their addition. */
  get entries() {
    return [...this.#items.keys()];
  }

  /**
   * Adds an image.
   * @param {Entry} entry
   * @returns {HTMLCanvasElement} for its thumbnail.
   */
  add(entry) {
    const item = document.createElement('li');
    const button = document.createElement('button');
    const canvas = document.createElement('canvas');
    const name = document.createElement('span');
    button.type = 'button';
    name.textContent = entry.label;
    button.append(canvas, name);
    button.addEventListener('click', () => this.#onchoose(entry));
    item.append(button);
    this.#list.append(item);
    this.#items.set(entry, item);
    return canvas;
  }

  /** Removes an image; returns its neighbour, if there is one. */
  remove(/** @type {Entry} */ entry) {
    const at = this.entries.indexOf(entry);
    this.#items.get(entry).remove();
    this.#items.delete(entry);
    return this.entries[Math.min(at, this.#items.size - 1)] ?? null;
  }

  /** Marks the shown image. */
  mark(/** @type {?Entry} */ chosen) {
    for (const [entry, item] of this.#items) {
      item.firstChild.setAttribute('aria-pressed', String(entry === chosen));
    }
  }

  /** Moves the keyboard focus to an image. */
  focus(/** @type {Entry} */ entry) {
    this.#items.get(entry).firstChild.focus();
  }
}
