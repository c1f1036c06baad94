// A data set: what its columns are, what may be wrong with it, how its values are distributed, and a few sequences.

import { seconds } from "./answers.js";
import { get, Problem } from "./api.js";
import { Chart } from "./chart.js";
import { fill, h, say, svg, the } from "./dom.js";
import { bytes, dated, moment, NONE, number } from "./format.js";
import { list } from "./lists.js";
import { live } from "./live.js";
import { judged, spreadOut, state } from "./state.js";
import { table } from "./tables.js";
import { inWords, together } from "./wording.js";

const id = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/datasets/${encodeURIComponent(id)}`;
const TITLES = { layout: "Layout", group: "Sequence", order: "Order", features: "Features", static: "Of a whole sequence", text: "Text", target: "To predict", known_future: "Known ahead", weight: "Weight", split: "Split" };
const MOST_CLASSES = 20;
const MOST_LINES = 8;
const LEAST_PART = 0.2; // of an axis, so that a curve is not flat on it
const EVERY_COLUMN = "";
const JOB_TITLES = [["Job"], ["State"], ["What"], ["Best", "number"], ["Submitted"]];
const NEXT = {
  ready: "Press Train on this for one model, or Search the best model to try several.",
  validating: "It can be used when it is ready.",
  rejected: "Correct what is wrong with the file, and upload it again.",
  raw: "Choose it as the data of a job that predicts.",
};
let listed = false;
let preview = null;

function draw(dataset) {
  const name = `${dataset.name}@${dataset.version}`;
  document.title = `${name} · Loopline`;
  the("dataset").hidden = false;
  say(the("title"), name);
  fill(the("state"), h("span", { class: `chip ${{ ready: "good", rejected: "bad" }[dataset.status] ?? ""}` }, dataset.status === "validating" ? "being checked" : dataset.status));
  for (const [button, kind] of [["train", "job"], ["search", "search"]]) {
    the(button).href = `/submit?${new URLSearchParams({ kind, dataset: name })}`;
    if (dataset.status !== "ready") the(button).removeAttribute("href");
  }
  fill(the("facts"), h("code", {}, dataset.id), dataset.format && h("span", {}, dataset.format.toUpperCase()), h("span", {}, bytes(dataset.source_bytes ?? dataset.bytes)), h("span", {}, "uploaded ", moment(dataset.created_at, { seconds: true })));
  drawAlarms(dataset);
  drawTiles(dataset);
  drawSchema(dataset);
  drawClasses(dataset);
  say(the("next"), NEXT[dataset.status] ?? "");
  if (!listed) list(`/v1/jobs?${new URLSearchParams({ dataset: dataset.id })}`, (found) => table(JOB_TITLES, found.map(lineOf), "Jobs with this data set, newest first"));
  listed = true;
  if (dataset.status === "ready" && !preview) look(dataset.id);
}

/** A job that has used it, as a line of a table. */
function lineOf(job) {
  const what = job.kind === "predict" ? "predicts" : job.trial === null ? "trains" : `trains, trial ${job.trial}`;
  const best = judged(job);
  return [
    h("a", { class: "name", href: `/jobs/${job.id}` }, job.name ?? job.id),
    state(job),
    what,
    best ? [spreadOut(best.value, best.spread), h("small", { class: "below" }, best.name)] : NONE,
    moment(job.created_at),
  ];
}

function drawAlarms(dataset) {
  const remarks = dataset.report?.remarks ?? [];
  const told = dataset.report?.notes ?? [];
  fill(
    the("alarms"),
    dataset.status === "rejected" && h("div", { class: "notice bad", role: "alert" }, h("p", {}, inWords(dataset.message)), h("ul", {}, (dataset.problems ?? []).map((each) => h("li", {}, inWords(each.detail))))),
    dataset.status === "validating" && h("p", { class: "notice" }, "The file is being checked. No job can use it before that; this page shows when it is ready."),
    dataset.status === "raw" && h("p", { class: "notice" }, "This file is kept as it came, for jobs that predict. No job can train on it."),
    together(dataset.warnings).map((warning) => h("p", { class: "notice warn" }, warning)),
    remarks.filter((each) => each.severity === "note").map((each) => h("p", { class: "notice" }, inWords(each.where ? `${each.where}: ${each.detail}` : each.detail))),
    told.map((note) => h("p", { class: "notice" }, inWords(note))),
  );
}

function drawTiles(dataset) {
  const tile = (title, value, below) => h("div", {}, h("dt", {}, title), h("dd", {}, value, below && h("small", {}, below)));
  const { report } = dataset;
  const [first, last] = dated([report?.first_time, report?.last_time]);
  const missing = report && Object.entries(report.missing);
  fill(
    the("tiles"),
    dataset.samples !== null && tile("Sequences", number(dataset.samples), dataset.given_split && Object.entries(dataset.given_split).map(([part, count]) => `${part} ${number(count)}`).join(", ")),
    dataset.features !== null && tile("Features", number(dataset.features)),
    dataset.max_length !== null && tile("Steps", dataset.min_length === dataset.max_length ? number(dataset.max_length) : `${number(dataset.min_length)} to ${number(dataset.max_length)}`, report && `${number(report.steps)} in all`),
    report?.first_time && tile("Times", first, `to ${last}${report.usual_step ? `, each ${report.usual_step}` : ""}`),
    missing && tile("Missing values", missing.length ? number(missing.reduce((sum, [, count]) => sum + count, 0)) : "none", missing.map(([column, count]) => `${column} ${number(count)}`).slice(0, 5).join(", ")),
  );
}

function drawSchema(dataset) {
  the("schema-part").hidden = !dataset.schema;
  the("correct").href = `/datasets?${new URLSearchParams({ correct: `${dataset.name}@${dataset.version}` })}`;
  if (!dataset.schema) return;
  const reasons = new Map((dataset.report?.reasons ?? []).map((each) => [each.field, each]));
  const rows = Object.entries(dataset.schema).filter(([, value]) => value !== null && value.length !== 0).flatMap(([field, value]) => {
    const why = reasons.get(field);
    const values = [value].flat();
    return [h("dt", {}, TITLES[field] ?? field), h("dd", {}, h("b", {}, values.slice(0, 30).join(", "), values.length > 30 ? ` and ${values.length - 30} more` : ""), why && h("small", { class: "below" }, `${why.sure}: ${inWords(why.why)}`))];
  });
  fill(the("schema"), rows);
}

function drawClasses(dataset) {
  const counts = dataset.class_counts;
  the("classes-part").hidden = !counts;
  if (!counts) return;
  const pairs = dataset.classes.map((name, place) => [String(name), counts[place]]).sort((a, b) => b[1] - a[1]);
  fill(the("classes"), bars(pairs));
}

function bars(pairs) {
  const most = Math.max(...pairs.map(([, count]) => count), 1);
  const rest = pairs.length - MOST_CLASSES;
  return [
    h("div", { class: "bars" }, pairs.slice(0, MOST_CLASSES).flatMap(([name, count]) => [h("span", {}, name), h("progress", { max: most, value: count, "aria-label": `How many are ${name}` }), h("span", { class: "number" }, number(count))])),
    rest > 0 && h("p", { class: "muted small" }, `and ${number(rest)} more`),
  ];
}

// The look into it

async function look(dataset) {
  try {
    preview = await get(`/v1/datasets/${dataset}/preview`);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return; // it is too large for that
  }
  the("lengths-part").hidden = preview.lengths.length < 2;
  fill(the("lengths"), histogram(preview.lengths, "Lengths of the sequences"));
  the("columns-part").hidden = preview.columns.length === 0;
  const { sequences, of } = preview.sampled;
  say(the("sampled"), sequences < of ? `from ${number(sequences)} of ${number(of)} sequences` : preview.more_columns ? `${number(preview.more_columns)} columns more` : "");
  fill(the("columns"), preview.columns.map((column) => h("figure", {}, h("figcaption", {}, h("b", {}, column.name), column.missing > 0 && h("span", { class: "muted small" }, ` ${number(column.missing)} missing`)), column.bins ? histogram(column.bins, column.name) : bars(column.words.slice(0, 6)))));
  the("sequences-part").hidden = preview.sequences.length === 0;
  const numbers = preview.columns.filter((column) => column.kind === "number");
  const choice = the("column");
  choice.replaceChildren(h("option", { value: EVERY_COLUMN }, "every column"), ...numbers.map((column) => h("option", { value: column.name }, column.name)));
  choice.parentElement.hidden = numbers.length < 2;
  drawSequences();
}

/** A histogram as bars of SVG; its ends are written below. */
function histogram(bins, title) {
  if (!bins.length) return h("p", { class: "muted small" }, "no values");
  const most = Math.max(...bins.map((bin) => bin.count));
  const wide = 100 / bins.length;
  const drawn = bins.map((bin, place) => {
    const tall = (bin.count / most) * 48;
    return svg("rect", { x: (place * wide + wide * 0.06).toFixed(2), y: (50 - tall).toFixed(2), width: (wide * 0.88).toFixed(2), height: tall.toFixed(2) }, svg("title", {}, `${number(bin.low)} to ${number(bin.high)}: ${number(bin.count)}`));
  });
  const label = `${title}: from ${number(bins[0].low)} to ${number(bins.at(-1).high)}, most often near ${number(bins.find((bin) => bin.count === most).low)}`;
  return h("div", { class: "histogram" }, svg("svg", { viewBox: "0 0 100 50", preserveAspectRatio: "none", role: "img", "aria-label": label }, ...drawn), h("div", { class: "ends muted small numbers" }, h("span", {}, number(bins[0].low)), h("span", {}, number(bins.at(-1).high))));
}

function drawSequences() {
  const chosen = the("column").value;
  const places = preview.columns.flatMap((column, place) => (column.kind === "number" && (chosen === EVERY_COLUMN || column.name === chosen) ? [place] : []));
  const shown = places.slice(0, MOST_LINES);
  say(the("undrawn"), places.length > shown.length ? `The first ${shown.length} of ${places.length} columns are drawn.` : "");
  const charts = [];
  the("sequences").replaceChildren(
    ...preview.sequences.map((sequence, turn) => {
      const drawn = h("div");
      if (sequence.text === null && shown.length) charts.push([drawn, sequence, turn]);
      return h("figure", {}, h("figcaption", {}, h("b", {}, sequence.id ?? `Sequence ${turn + 1}`), h("span", { class: "muted small" }, ` ${below(sequence)}`)), sequence.text === null ? drawn : h("p", { class: "text" }, sequence.text));
    }),
  );
  for (const [parent, sequence, turn] of charts) drawCurves(parent, sequence, turn, shown);
}

/** What is known of a sequence, and how much of it is drawn. */
function below(sequence) {
  const still = Object.entries(sequence.static).map(([name, value]) => `${name} ${value}`);
  const count = sequence.values[0]?.length ?? 0;
  const steps = count > 0 && count < sequence.length ? `the last ${number(count)} of ${number(sequence.length)} steps` : `${number(sequence.length)} steps`;
  return [sequence.target, ...still, sequence.text === null ? steps : `${number(sequence.length)} characters`].filter(Boolean).join(" · ");
}

/** The columns of a sequence in one chart if one axis suits them, else each in a strip with its own. */
function drawCurves(parent, sequence, turn, columns) {
  const title = sequence.id ?? `Sequence ${turn + 1}`;
  const count = sequence.values[columns[0]].length;
  const times = sequence.times?.map(seconds);
  const time = Boolean(times?.length) && times.every((each) => each !== null);
  const x = time ? times : Array.from({ length: count }, (_, step) => sequence.length - count + step + 1);
  const lines = columns.map((column, index) => ({ label: preview.columns[column].name, colour: `series-${index + 1}`, x, y: sequence.values[column], width: 1.2 }));
  const axes = areAlike(columns) ? [lines] : lines.map((line) => [line]);
  axes.forEach((each, place) => {
    const strip = axes.length === 1 ? null : place === axes.length - 1 ? "last" : "middle";
    const chart = h("div", { class: strip ? "strip" : "chart" });
    parent.append(chart);
    new Chart(chart, { title: strip ? `${title}, ${each[0].label}` : title, strip, sync: `sequence ${turn}` }).show({ lines: each, x: time ? "time" : "step", time, whole: !time });
  });
}

/** Whether the values of each column take a fair part of the axis that all of them would share. */
function areAlike(columns) {
  const ranges = columns.map((column) => preview.columns[column].bins).filter((bins) => bins.length).map((bins) => [bins[0].low, bins.at(-1).high]);
  const whole = Math.max(...ranges.map(([, high]) => high)) - Math.min(...ranges.map(([low]) => low));
  return ranges.every(([low, high]) => high === low || high - low >= LEAST_PART * whole);
}

the("column").addEventListener("change", drawSequences);
live(path, draw, {
  every: 3,
  until: (dataset) => dataset.status !== "validating",
  fail: (error) => {
    the("missing").hidden = false;
    say(the("missing-why"), error.message);
  },
});
