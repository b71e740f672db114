// Elements, made without ever reading text as markup.

const SVG = 'http://www.w3.org/2000/svg';

/** The element with this id; every id is in `index.html`. */
export const at = (id) => document.getElementById(id);

/** A new element. Attributes that are null, undefined or false are left out; children are nodes or text. */
export function el(name, attributes = {}, ...children) {
  return dressed(document.createElement(name), attributes, children);
}

/** The same for a drawing. */
export function svg(name, attributes = {}, ...children) {
  return dressed(document.createElementNS(SVG, name), attributes, children);
}

function dressed(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Puts a template of `index.html` into the page. */
export function show(view) {
  at('main').replaceChildren(at(`view-${view}`).content.cloneNode(true));
}

/** Writes text only where it differs, so that a live region speaks of changes alone. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Says something to those who do not see it happen. */
export function say(text) {
  write(at('spoken'), text);
}

/** Rows by key: those that stay keep their element, and with it focus and selection. */
export function rows(body, items, key, fill, tag = 'tr') {
  const held = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const wanted = items.map((item) => {
    const row = held.get(key(item)) ?? el(tag, { 'data-key': key(item) });
    fill(row, item);
    return row;
  });
  const same = wanted.length === body.children.length && wanted.every((row, place) => row === body.children[place]);
  if (!same) body.replaceChildren(...wanted);
}

/** Replaces those of a row's cells that say something else now; what had the focus keeps it. */
export function cells(row, ...made) {
  made.forEach((cell, place) => {
    const held = row.children[place];
    if (!held) return row.append(cell);
    if (held.isEqualNode(cell)) return undefined;
    const focused = held.contains(document.activeElement);
    held.replaceWith(cell);
    if (focused) cell.querySelector('a, input')?.focus();
    return undefined;
  });
  while (row.children.length > made.length) row.lastElementChild.remove();
}
