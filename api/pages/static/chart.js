// A chart: uPlot with the colours of the page, a legend with the values under the pointer, and zooming by dragging.

import { h } from "./dom.js";
import { number } from "./format.js";

const HEIGHT = 230;
const STRIP = 90;
const X_AXIS = 34;
const Y_AXIS_OF_STRIPS = 64;
const WHOLE = Array.from({ length: 10 }, (_, power) => [1, 2, 5].map((each) => each * 10 ** power)).flat();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/**
 * A chart in `parent`.
 *
 * title    what it shows, for those who do not see it
 * sync     charts with the same key show the pointer of each other
 * zoom     called with the two ends that were dragged, or with null for the whole
 * strip    it is one of several low charts above each other; only the "last" of them says what x is
 */
export class Chart {
  #parent;
  #title;
  #sync;
  #zoom;
  #strip;
  #height;
  #plot = null;
  #made = "";
  #shown = null;

  constructor(parent, { title, sync, zoom, strip = null }) {
    this.#parent = parent;
    this.#title = title;
    this.#sync = sync;
    this.#zoom = zoom;
    this.#strip = strip;
    this.#height = strip === null ? HEIGHT : strip === "last" ? STRIP + X_AXIS : STRIP;
    new ResizeObserver(() => this.#resize()).observe(parent);
    document.addEventListener("themechange", () => {
      this.#made = "";
      if (this.#shown) this.show(this.#shown);
    });
  }

  /**
   * Draws lines of `{label, colour, x, y, dash, width, dots, points, faint}`: `x` and `y` are of one length, and missing
   * values are null. `view` is the part of x to show, or null for all; `log` is the scale of y. With `time`, x are seconds
   * since 1970 in the zone of the data; with `whole`, they are whole numbers.
   * `within` are the ends of y; without them all values are within.
   */
  show({ lines, x, log = false, view = null, time = false, whole = false, within = null }) {
    this.#shown = { lines, x, log, view, time, whole, within };
    const drawn = lines.filter((line) => line.x.length > 0);
    const data = joined(drawn, log);
    const made = JSON.stringify([x, log, time, whole, within !== null, drawn.map(({ label, colour, dash, dots }) => [label, colour, dash, dots])]);
    if (this.#plot && made === this.#made) {
      this.#plot.setData(data);
    } else {
      this.#plot?.destroy();
      this.#made = made;
      this.#plot = new globalThis.uPlot(this.#options(drawn, x, log), data, this.#parent);
    }
    const told = drawn.filter((line) => line.told !== false).map((line) => `${line.label} ${number(last(line.y))}`);
    const picture = this.#plot.root.querySelector(".u-wrap");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", `${this.#title}: ${told.join(", ") || "nothing yet"}`);
  }

  #options(lines, x, log) {
    const grid = { stroke: colour("line"), width: 1 };
    const axis = { stroke: colour("muted"), grid, ticks: { ...grid, size: 4 }, font: "12px system-ui, sans-serif" };
    return {
      width: Math.max(this.#parent.clientWidth, 200),
      height: this.#height,
      padding: [8, 12, this.#strip === "middle" ? 8 : 0, 0],
      cursor: {
        sync: this.#sync ? { key: this.#sync, scales: ["x", null] } : undefined,
        drag: { x: true, y: false, setScale: false },
        points: { size: 6 },
        bind: { dblclick: () => () => this.#zoom?.(null) },
      },
      legend: { markers: { dash: (_, index) => stroke(lines[index - 1]?.dash) } },
      hooks: { setSelect: [(plot) => this.#selected(plot)] },
      scales: {
        x: { time: this.#shown.time, range: (_, low, high) => this.#range(low, high) },
        y: log ? { distr: 3 } : this.#shown.within ? { range: () => this.#shown.within } : {},
      },
      axes: [
        { ...axis, show: this.#strip !== "middle", size: X_AXIS, gap: 3, ...(this.#shown.time ? {} : { values: (_, values) => values.map(tick) }), ...(this.#shown.whole ? { incrs: WHOLE } : {}) },
        { ...axis, size: (_, values) => (this.#strip === null ? widest(values) : Y_AXIS_OF_STRIPS), ...(this.#strip === null ? {} : { space: 20 }), gap: 4, values: (_, values) => values.map(tick) },
      ],
      tzDate: (seconds) => globalThis.uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"), // `time` has no zone, or UTC
      series: [{ label: x, value: pointed((value) => (this.#shown.time ? instant(value) : number(value))) }, ...lines.map(drawn)],
    };
  }

  #range(low, high) {
    const view = this.#shown.view;
    if (view) return view;
    if (low === null || high === null || !Number.isFinite(low)) return [0, 1];
    return low === high ? [low - 1, high + 1] : [low, high];
  }

  #selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const ends = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.#zoom?.(ends);
  }

  #resize() {
    const width = this.#parent.clientWidth;
    if (this.#plot && width > 0 && width !== this.#plot.width) this.#plot.setSize({ width, height: this.#height });
  }
}

/** The room that the labels of an axis take, in pixels. */
function widest(labels) {
  return 18 + 7 * Math.max(4, ...(labels ?? []).map((label) => label.length));
}

/** The border of a marker in the legend that has the dashes of its line. */
function stroke(dash) {
  if (!dash) return "solid";
  return dash[0] > 2 ? "dashed" : "dotted";
}

/** What the legend writes of a value: nothing while no point is under the pointer. */
function pointed(written) {
  return (_plot, value, _series, index) => (index === null ? "" : written(value));
}

function instant(seconds) {
  return seconds === null || seconds === undefined ? "–" : new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
}

function tick(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-4)) return value.toExponential().replace("e+", "e");
  return value.toLocaleString("en", { maximumSignificantDigits: 6 });
}

function drawn(line) {
  const stroke = colour(line.colour);
  const faint = line.faint ? `color-mix(in srgb, ${stroke} 38%, transparent)` : stroke;
  return {
    label: line.label,
    stroke: faint,
    width: line.width ?? 1.6,
    dash: line.dash,
    spanGaps: true,
    value: pointed(number),
    ...(line.dots ? { paths: () => null, points: { show: true, size: line.size ?? 3, fill: stroke, width: 0 } } : { points: { show: line.points !== undefined || line.y.length < 2, size: line.points ?? 5, fill: stroke, width: 0 } }),
  };
}

/** The lines on one x, as uPlot wants them; what a logarithm does not have is missing. */
function joined(lines, log) {
  if (!lines.length) return [[], []].slice(0, 1);
  const tables = lines.map((line) => [line.x, log ? line.y.map((value) => (value > 0 ? value : null)) : line.y]);
  return tables.length === 1 ? tables[0] : globalThis.uPlot.join(tables, tables.map(() => [0]));
}

function last(values) {
  for (let index = values.length - 1; index >= 0; index -= 1) if (values[index] !== null) return values[index];
  return null;
}

/** The mean of the values before, each with a weight that falls by `weight` (0 to 1) from one to the next. */
export function smoothed(values, weight) {
  if (!weight) return values;
  let mean = 0;
  let sum = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = mean * weight + value * (1 - weight);
    sum = sum * weight + (1 - weight);
    return mean / sum;
  });
}

/** Buttons of which one is pressed. `options` are values and what they are called. */
export function choices(label, options, chosen, choose) {
  const buttons = options.map(([value, text]) =>
    h("button", { type: "button", "aria-pressed": String(value === chosen), onclick: () => press(value) }, text),
  );
  function press(value) {
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(options[index][0] === value)));
    choose(value);
  }
  return h("div", { class: "choices", role: "group", "aria-label": label }, buttons);
}
