// Parallel coordinates: an axis for each field, a line for each item. Drawn as SVG; the table beside it has the numbers.

import { fill, svg } from "./dom.js";
import { number } from "./format.js";
import { shown } from "./resource.js";

const HEIGHT = 250;
const LEAST = 130; // pixels from axis to axis
const EDGE = { left: 70, right: 70, top: 30, bottom: 14 };
const MOST_WORDS = 12;

/** `axes` are `{title, log, of}`; `items` come best first, and the first `best` of them are coloured. */
export function parallel(parent, axes, items, { best, title }) {
  const width = Math.max(parent.clientWidth, EDGE.left + EDGE.right + LEAST * (axes.length - 1));
  const step = (width - EDGE.left - EDGE.right) / Math.max(axes.length - 1, 1);
  const scales = axes.map((axis) => scale(axis, items));
  const lines = items.toReversed().map((item, place) => {
    const points = axes.flatMap((_, index) => {
      const y = scales[index].y(axes[index].of(item));
      return y === null ? [] : [`${(EDGE.left + index * step).toFixed(1)},${y.toFixed(1)}`];
    });
    return svg("polyline", { class: place >= items.length - best ? "best" : "other", points: points.join(" ") }, svg("title", {}, title(item)));
  });
  const drawn = axes.flatMap((axis, index) => {
    const x = EDGE.left + index * step;
    const anchor = index === 0 ? "start" : index === axes.length - 1 ? "end" : "middle";
    const at = index === 0 ? 0 : index === axes.length - 1 ? width : x;
    return [
      svg("line", { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }),
      svg("text", { class: "axis", x: at, y: 12, "text-anchor": anchor }, short(axis.title)),
      ...scales[index].ticks.map(([y, text]) => svg("text", { x: index === axes.length - 1 ? x + 6 : x - 6, y: y + 4, "text-anchor": index === axes.length - 1 ? "start" : "end" }, text)),
    ];
  });
  const label = `The values of ${items.length} trials over ${axes.map((axis) => axis.title).join(", ")}`;
  fill(parent, svg("svg", { class: "parallel", width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label }, ...lines, ...drawn));
}

/** Where a value stands on an axis, and what is written beside it. Numbers by size, everything else by its order. */
function scale(axis, items) {
  const values = items.map(axis.of).filter((value) => value !== undefined && value !== null);
  const place = (share) => HEIGHT - EDGE.bottom - share * (HEIGHT - EDGE.bottom - EDGE.top);
  if (values.every((value) => typeof value === "number")) {
    const size = axis.log && values.every((value) => value > 0) ? Math.log : (value) => value;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const span = size(high) - size(low);
    const y = (value) => (value === undefined || value === null ? null : place(span ? (size(value) - size(low)) / span : 0.5));
    return { y, ticks: low === high ? [[y(low), number(low, 3)]] : [[y(low), number(low, 3)], [y(high), number(high, 3)]] };
  }
  const words = [...new Set(values.map(shown))].sort();
  const y = (value) => (value === undefined || value === null ? null : place(words.length < 2 ? 0.5 : words.indexOf(shown(value)) / (words.length - 1)));
  return { y, ticks: words.slice(0, MOST_WORDS).map((word) => [place(words.length < 2 ? 0.5 : words.indexOf(word) / (words.length - 1)), word.slice(0, 12)]) };
}

/** The last part of a path, which says most. */
function short(title) {
  return title.split(".").at(-1);
}
