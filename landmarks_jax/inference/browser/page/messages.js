/** What the page tells its user; screen readers read it out. */

/** Shows a message; those before go, unless `more`. */
export function say(text, { wrong = false, more = false } = {}) {
  const line = document.createElement('p');
  line.textContent = text;
  line.classList.toggle('error', wrong);
  if (!more) {
    hush();
  }
  document.getElementById('messages').append(line);
}

/** Takes all messages away. */
export function hush() {
  document.getElementById('messages').replaceChildren();
}
