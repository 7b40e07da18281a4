/** Messages to the user, which screen readers announce. */

/** Shows a message, replacing earlier ones unless `more`. */
export function say(text, { wrong = false, more = false } = {}) {
  const line = document.createElement('p');
  line.textContent = text;
  line.classList.toggle('error', wrong);
  if (!more) {
    hush();
  }
  document.getElementById('messages').append(line);
}

/** Removes all messages. */
export function hush() {
  document.getElementById('messages').replaceChildren();
}
