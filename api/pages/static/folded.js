// Long messages: their first sentence, and the rest behind “more”.

import { h } from "./dom.js";

const LONG = 200;
const opened = new Set(); // so that a page that draws a message again leaves it open

export function folded(text) {
  const [, first, rest] = text.match(/^(.*?[.!?]) ([A-Z].*)$/s) ?? [];
  if (text.length < LONG || !rest) return text;
  const more = h("details", { class: "folded", open: opened.has(text), ontoggle: () => opened[more.open ? "add" : "delete"](text) }, h("summary", {}, "more"), h("span", {}, rest));
  return [first, more];
}
