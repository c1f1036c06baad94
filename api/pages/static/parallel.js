// Parallel coordinates: an axis for each field, a line for each item. Drawn as SVG; the table beside it has the numbers.
// Dragging along an axis chooses the lines that cross it there; a press on the axis ends that. What is chosen is a place on
// the screen: a new item that widens the scale of the axis moves other lines there.

import { fill, svg } from "./dom.js";
import { number } from "./format.js";
import { shown } from "./resource.js";

const HEIGHT = 250;
const LEAST = 130; // pixels from axis to axis
const EDGE = { left: 70, right: 70, top: 30, bottom: 14 };
const MOST_WORDS = 12;
const TICKS = 5;
const NEAR = 16; // pixels from an axis at which it is dragged
const SHORT = 4; // pixels of a drag that is a press
let latest; // what is drawn, if a drag has to draw it again
const chosen = new Map(); // by the title of an axis, the part of it that was dragged: two places in pixels

/** `axes` are `{title, log, of}`; `items` come best first, and the first `best` of them are coloured. */
export function parallel(parent, axes, items, { best, title }) {
  latest = [parent, axes, items, { best, title }];
  const width = Math.max(parent.clientWidth, EDGE.left + EDGE.right + LEAST * (axes.length - 1));
  const step = (width - EDGE.left - EDGE.right) / Math.max(axes.length - 1, 1);
  const scales = axes.map((axis) => scale(axis, items));
  const isIn = (item) => axes.every((axis, index) => isWithin(chosen.get(axis.title), scales[index].y(axis.of(item))));
  const lines = items.toReversed().map((item, place) => {
    const points = axes.flatMap((_, index) => {
      const y = scales[index].y(axes[index].of(item));
      return y === null ? [] : [`${(EDGE.left + index * step).toFixed(1)},${y.toFixed(1)}`];
    });
    return svg("polyline", { class: `${place >= items.length - best ? "best" : "other"}${isIn(item) ? "" : " out"}`, points: points.join(" ") }, svg("title", {}, title(item)));
  });
  const drawn = axes.flatMap((axis, index) => {
    const x = EDGE.left + index * step;
    const anchor = index === 0 ? "start" : index === axes.length - 1 ? "end" : "middle";
    const at = index === 0 ? 0 : index === axes.length - 1 ? width : x;
    return [
      svg("line", { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }),
      brush(chosen.get(axis.title), x),
      svg("text", { class: "axis", x: at, y: 12, "text-anchor": anchor }, short(axis.title) + (scales[index].isLog ? " (log)" : "")),
      ...scales[index].ticks.map(([y, text]) => svg("text", { x: index === axes.length - 1 ? x + 6 : x - 6, y: y + 4, "text-anchor": index === axes.length - 1 ? "start" : "end" }, text)),
    ];
  });
  const label = `The values of ${items.length} trials over ${axes.map((axis) => axis.title).join(", ")}`;
  fill(parent, svg("svg", { class: "parallel", width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label }, ...lines, ...drawn));
  parent.onpointerdown = (event) => drag(event, parent, axes, step);
}

function isWithin(part, y) {
  return part === undefined || (y !== null && y >= Math.min(...part) && y <= Math.max(...part));
}

function brush(part, x) {
  return part && svg("rect", { class: "brush", x: x - 7, width: 14, y: Math.min(...part), height: Math.abs(part[1] - part[0]) });
}

/** Chooses a part of the nearest axis while the pointer is down. */
function drag(event, parent, axes, step) {
  const draw = () => parallel(...latest);
  const drawing = parent.querySelector("svg").getBoundingClientRect();
  const index = Math.round((event.clientX - drawing.left - EDGE.left) / step);
  if (!axes[index] || Math.abs(event.clientX - drawing.left - EDGE.left - index * step) > NEAR) return;
  event.preventDefault();
  const { title } = axes[index];
  const from = event.clientY - drawing.top;
  chosen.delete(title);
  parent.onpointermove = ({ clientY }) => {
    if (Math.abs(clientY - drawing.top - from) >= SHORT) chosen.set(title, [from, clientY - drawing.top]);
    draw();
  };
  parent.onpointerup = parent.onpointercancel = () => {
    parent.onpointermove = parent.onpointerup = parent.onpointercancel = null;
    draw();
  };
  parent.setPointerCapture(event.pointerId);
}

/** Where a value stands on an axis, and what is written beside it. Numbers by size, everything else by its order. */
function scale(axis, items) {
  const values = items.map(axis.of).filter((value) => value !== undefined && value !== null);
  const place = (share) => HEIGHT - EDGE.bottom - share * (HEIGHT - EDGE.bottom - EDGE.top);
  if (values.every((value) => typeof value === "number")) {
    const isLog = axis.log === true && values.every((value) => value > 0);
    const [size, back] = isLog ? [Math.log, Math.exp] : [(value) => value, (value) => value];
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const span = size(high) - size(low);
    const y = (value) => (value === undefined || value === null ? null : place(span ? (size(value) - size(low)) / span : 0.5));
    const ticks = Array.from({ length: low === high ? 1 : TICKS }, (_, place) => low === high ? low : back(size(low) + (span * place) / (TICKS - 1)));
    return { y, isLog, ticks: ticks.map((value) => [y(value), number(value, 3)]) };
  }
  const words = [...new Set(values.map(shown))].sort();
  const y = (value) => (value === undefined || value === null ? null : place(words.length < 2 ? 0.5 : words.indexOf(shown(value)) / (words.length - 1)));
  return { y, ticks: words.slice(0, MOST_WORDS).map((word) => [place(words.length < 2 ? 0.5 : words.indexOf(word) / (words.length - 1)), word.slice(0, 12)]) };
}

/** The last part of a path, which says most. */
function short(title) {
  return title.split(".").at(-1);
}
