// The answers of a model as pictures: classes and labels as bars, values, tags, forecasts as curves.

import { Chart } from "./chart.js";
import { h } from "./dom.js";
import { dated, NONE, number } from "./format.js";
import { table } from "./tables.js";

const MOST = 50; // sequences that are drawn
const MOST_BARS = 20;
const LEAST_PAST = 48; // steps before a forecast

/**
 * Fills `element` with a document of `predict`. `past` has by target what came before a forecast: `{x, y}`, where x are
 * times in seconds, or null to count steps back from it.
 */
export function drawAnswer(element, found, past) {
  const groups = Map.groupBy(found.rows, (each) => String(each.id ?? ""));
  const several = groups.size > 1;
  const shown = [...groups].slice(0, MOST).map(([id, rows]) => {
    const parts = DRAWN[found.task](rows, past);
    return h("article", { class: "said" }, several && h("h3", {}, id), parts);
  });
  element.replaceChildren(
    ...found.warnings.map((warning) => h("p", { class: "notice warn" }, warning)),
    ...shown,
    ...(groups.size > MOST ? [h("p", { class: "muted" }, `And ${number(groups.size - MOST)} sequences more. The command brings them all.`)] : []),
  );
  for (const chart of element.querySelectorAll("[data-chart]")) chart.dispatchEvent(new CustomEvent("placed"));
}

const DRAWN = {
  classification: ([one]) => [h("p", { class: "answer" }, String(one.label)), bars(probabilities(one))],
  multilabel: ([one]) => {
    const all = probabilities(one);
    const those = all.filter(([name]) => one[name] === true).map(([name]) => name);
    return [h("p", { class: "answer" }, those.join(", ") || "none of the labels"), bars(all)];
  },
  regression: ([one]) => h("dl", { class: "pairs" }, Object.entries(one).filter(([name]) => name !== "id").flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: "answer" }, number(value, 6))])),
  tagging: (rows) => steps(rows),
  forecast: (rows, past) => forecast(rows, past),
  next_step: (rows) => bars(rows.map((each) => [each.entry === null ? "something unknown" : JSON.stringify(each.entry), each.probability])),
};

function probabilities(one) {
  return Object.entries(one)
    .filter(([name]) => name.startsWith("probability_"))
    .map(([name, value]) => [name.slice("probability_".length), value])
    .sort((a, b) => b[1] - a[1]);
}

function bars(pairs) {
  const rest = pairs.length - MOST_BARS;
  return [
    h("div", { class: "bars" }, pairs.slice(0, MOST_BARS).flatMap(([name, value]) => [h("span", {}, name), h("progress", { max: 1, value: value ?? 0, "aria-label": `Probability of ${name}` }), h("span", { class: "number" }, value === null ? NONE : value.toFixed(3))])),
    rest > 0 && h("p", { class: "muted small" }, `and ${number(rest)} less likely`),
  ];
}

function steps(rows) {
  const titles = [["Step", "number"], ...(rows[0].time === undefined ? [] : [["Time"]]), ["Tag"], ["Probability", "number"]];
  const times = dated(rows.map((each) => each.time));
  const lines = rows.slice(0, 500).map((each, place) => [String(each.step), ...(each.time === undefined ? [] : [times[place]]), String(each.label), each.probability.toFixed(3)]);
  return h("div", { class: "steps", tabindex: 0, role: "group", "aria-label": "Tags" }, table(titles, lines, "The tag of each step"));
}

/** A curve for each target, with what came before and the range of quantiles; and all of it as a table. */
function forecast(rows, past) {
  const names = Object.keys(rows[0]).filter((name) => !["id", "step", "time"].includes(name));
  const targets = names.filter((name) => !names.some((other) => other !== name && name.startsWith(`${other}_q`)));
  const time = rows.every((each) => seconds(each.time) !== null) && past.inTime;
  const x = rows.map((each) => (time ? seconds(each.time) : each.step));
  const charts = targets.map((target) => {
    const place = h("div", { class: "chart", "data-chart": true });
    place.addEventListener("placed", () => {
      const before = past.of[target] && latest(past.of[target], Math.max(LEAST_PAST, 4 * rows.length));
      const lines = [{ label: "forecast", colour: "series-2", x, y: rows.map((each) => each[target]), points: 5 }];
      for (const name of names.filter((each) => each.startsWith(`${target}_q`))) lines.push({ label: name.slice(target.length + 1), colour: "series-2", faint: true, dash: [4, 3], x, y: rows.map((each) => each[name]), told: false });
      if (before?.y.length) lines.unshift({ label: "given", colour: "series-1", x: time ? before.x : before.y.map((_, index) => index - before.y.length + 1), y: before.y, told: false });
      new Chart(place, { title: `Forecast of ${target}` }).show({ lines, x: time ? "time" : "step", time, whole: !time });
    });
    return [h("p", { class: "name" }, target), place];
  });
  const titles = [[time || rows[0].time !== undefined ? "Time" : "Step"], ...names.map((name) => [name, "number"])];
  const times = dated(rows.map((each) => each.time ?? each.step));
  const lines = rows.map((each, place) => [times[place], ...names.map((name) => (number(each[name], 6)))]);
  return [charts, h("div", { class: "steps", tabindex: 0, role: "group", "aria-label": "Values" }, table(titles, lines, "The forecast"))];
}

/** The last points of a line, so that what comes after it can be seen. */
function latest({ x, y }, count) {
  return { x: x.slice(-count), y: y.slice(-count) };
}

/** A time as the service or a data set writes it, in seconds since 1970; one without a zone as if it were UTC. */
export function seconds(text) {
  if (typeof text !== "string" || !/^\d{4}-\d\d-\d\d/.test(text)) return null;
  const whole = /^\d{4}-\d\d-\d\d$/.test(text) ? `${text}T00:00:00Z` : /(Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text.replace(" ", "T")}Z`;
  const found = Date.parse(whole.replace(" ", "T"));
  return Number.isNaN(found) ? null : found / 1000;
}
