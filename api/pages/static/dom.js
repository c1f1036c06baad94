// Making and finding elements. Everything from the service comes in as text: nothing here reads HTML.

/** An element with attributes, properties (`.name`), listeners (`onclick`) and children; strings become text. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith(".")) element[name.slice(1)] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The element with this id. */
export function the(id) {
  return document.getElementById(id);
}

/** Replaces what is in an element, unless it is what is there already: a reader or a selection is not disturbed. */
export function fill(element, ...children) {
  const next = document.createElement(element.tagName);
  next.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  if (!next.isEqualNode(bare(element))) element.replaceChildren(...next.childNodes);
}

function bare(element) {
  const copy = document.createElement(element.tagName);
  copy.append(...[...element.childNodes].map((node) => node.cloneNode(true)));
  return copy;
}

/** Sets an element's text if it is another one. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fills the place of a problem, or hides it. */
export function problem(element, error) {
  element.hidden = error === null;
  if (error === null) return;
  const more = (error.errors ?? []).map((each) => each.detail).filter((detail) => !error.message.includes(detail));
  fill(element, h("p", {}, error.message), more.length > 0 && h("ul", {}, more.map((detail) => h("li", {}, detail))));
}
