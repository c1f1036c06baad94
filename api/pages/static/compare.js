// Jobs beside each other: their curves on one chart, their results in a table that sorts, and how their specs differ.

import { get } from "./api.js";
import { Chart, choices, smoothed } from "./chart.js";
import { Curves } from "./curves.js";
import { fill, h, say, the } from "./dom.js";
import { between, duration, NONE, number, words } from "./format.js";
import { live } from "./live.js";
import { namesWith, NEWEST, suggestNames } from "./names.js";
import { shown as asText } from "./resource.js";
import { calmRange } from "./scales.js";
import { spreadOut, state, status } from "./state.js";

const MOST = 20;
const COLOURS = 8;
const AXES = { epoch: "epoch", step: "step", time: "seconds of training" };
const DASHES = [undefined, [8, 4], [2, 3]];
const jobs = new Map(); // by id: {job, curves, look, number}
const settings = { by: "epoch", scale: "linear", smoothing: 0, field: "validation_loss", sort: { key: null, down: false } };
const chart = new Chart(the("chart"), { title: "Curves of the jobs", zoom });
let view = null;
let added = 0;

function ids() {
  return (new URLSearchParams(location.search).get("jobs") ?? "").split(",").filter(Boolean).slice(0, MOST);
}

function put(wanted) {
  history.pushState(null, "", wanted.length ? `/compare?jobs=${wanted.join(",")}` : "/compare");
  follow();
}

/** Watches the jobs of the address, and no others. */
function follow() {
  const wanted = ids();
  for (const [id, each] of jobs) {
    if (!wanted.includes(id)) {
      each.look.stop();
      jobs.delete(id);
    }
  }
  for (const id of wanted) {
    if (jobs.has(id)) continue;
    const each = { job: null, curves: new Curves(id), number: (added += 1) - 1 };
    jobs.set(id, each);
    each.look = live(`/v1/jobs/${encodeURIComponent(id)}`, (job) => shown(each, job), { until: (job) => job.terminal, fail: (error) => gone(id, error) });
  }
  the("empty").hidden = wanted.length > 0;
  draw();
}

function shown(each, job) {
  each.job = job;
  draw();
  if (job.kind === "train") each.curves.update(job).then((news) => news && draw(), () => {});
}

function gone(id, error) {
  problem(error.message);
  put(ids().filter((each) => each !== id));
}

function problem(...told) {
  the("problem").hidden = told.length === 0;
  fill(the("problem"), told);
}

function ready() {
  return [...jobs.values()].filter((each) => each.job !== null);
}

function title(each) {
  const name = each.job.name ?? each.job.id;
  const twins = ready().filter((other) => (other.job.name ?? other.job.id) === name);
  return twins.length > 1 ? `${name} (${each.job.id.slice(-5)})` : name;
}

function look(each) {
  return { colour: `series-${(each.number % COLOURS) + 1}`, dash: DASHES[Math.floor(each.number / COLOURS) % DASHES.length] };
}

/** The colour of a job, with the dashes of its line. */
function swatch(each) {
  const kind = ["", "dashed", "dotted"][Math.floor(each.number / COLOURS) % DASHES.length];
  return h("span", { class: `swatch ${look(each).colour} ${kind}` });
}

function draw() {
  const all = ready();
  the("compared").hidden = all.length === 0;
  if (!all.length) return;
  drawFields();
  drawChart();
  drawResults();
  drawSpecs();
}

// The chart

const EACH_STEP = { loss: "training loss of each step", grad_norm: "gradient norm of each step" };

function drawFields() {
  const fields = [...new Set(ready().flatMap((each) => each.curves.fields()))].filter((name) => !["epoch", "fold", "fold_epoch"].includes(name));
  const options = [...Object.keys(EACH_STEP), ...fields];
  const choice = the("field");
  if (choice.options.length === options.length) return;
  choice.replaceChildren(...options.map((name) => h("option", { value: name }, EACH_STEP[name] ?? words(name))));
  if (fields.length && !options.includes(settings.field)) settings.field = fields.includes("train_loss") ? "train_loss" : "loss";
  choice.value = settings.field;
}

function zoom(ends) {
  view = ends;
  drawChart();
  if (ends === null || !(settings.field in EACH_STEP)) return;
  for (const each of ready()) {
    const [first, last] = ends.map((place) => Math.max(1, Math.round(each.curves.toStep(place, settings.by))));
    if (last <= first) continue;
    each.curves.part(first, last).then((part) => {
      if (view !== ends) return;
      each.part = part;
      drawChart();
    }, () => {});
  }
}

function drawBeyond(lines) {
  const names = (lines ?? []).map((line) => line.label);
  the("beyond").hidden = names.length === 0;
  say(the("beyond"), `Partly beyond this scale: ${names.join(", ")}.`);
}

/** Whether an axis of whole epochs or steps has room for two of them. */
function wholeNumbers() {
  if (settings.by === "time" || (settings.by === "epoch" && settings.field in EACH_STEP)) return false;
  return view === null || view[1] - view[0] >= 2;
}

function drawChart() {
  the("whole").hidden = view === null;
  const lines = ready().map((each) => {
    let line;
    if (settings.field in EACH_STEP) {
      const steps = (view && each.part) || each.curves.steps;
      line = { x: steps.step.map((step) => each.curves.ofStep(step, settings.by)), y: steps[settings.field], width: 1.2 };
    } else {
      line = each.curves.line(settings.field, settings.by);
    }
    return { label: title(each), ...look(each), ...line, y: smoothed(line.y, settings.smoothing) };
  });
  const within = settings.scale === "calm" ? calmRange(lines.map((line) => line.y)) : null;
  drawBeyond(within && lines.filter((line) => line.y.some((value) => value !== null && (value < within[0] || value > within[1]))));
  chart.show({ lines, x: AXES[settings.by], log: settings.scale === "log", within, view, whole: wholeNumbers() });
}

// The tables

/** What the table of results shows of a job: title, how it sorts, how it is written. */
function columns() {
  const best = new Set(ready().flatMap(({ job }) => (job.best && job.progress.folds === null ? [job.best.metric] : [])));
  const names = new Set(ready().flatMap(({ job }) => [...Object.keys(job.result?.mean ?? {}), ...Object.keys(job.result?.metrics ?? {})]).filter((name) => !best.has(name)));
  return [
    { key: "job", title: "Job", of: title, write: (each) => [swatch(each), h("a", { href: `/jobs/${each.job.id}` }, title(each))] },
    { key: "state", title: "State", of: ({ job }) => status(job), write: ({ job }) => state(job) },
    { key: "epoch", title: "Epoch", number: true, of: ({ job }) => job.progress.epoch, write: ({ job }) => (job.progress.epochs === null ? NONE : `${job.progress.epoch} of ${job.progress.epochs}`) },
    ...[...best].map((name) => ({ key: `best ${name}`, title: `best ${words(name)}`, number: true, of: ({ job }) => bestOf(job, name), write: ({ job }) => written(job, name, bestOf(job, name)) })),
    ...[...names].map((name) => ({ key: name, title: words(name), number: true, of: ({ job }) => resultOf(job, name), write: ({ job }) => written(job, name, resultOf(job, name)) })),
    { key: "took", title: "Time", number: true, of: ({ job }) => between(job.started_at, job.finished_at), write: ({ job }) => duration(Math.round(between(job.started_at, job.finished_at) ?? 0)) },
  ];
}

function bestOf(job, name) {
  if (job.progress.folds !== null) return job.result?.mean?.[name] ?? null;
  return job.best?.metric === name ? job.best.value : null;
}

/** A metric of the result; with folds, those of validation are means over them. */
function resultOf(job, name) {
  return job.result?.mean?.[name] ?? job.result?.metrics[name] ?? null;
}

function written(job, name, value) {
  const { mean, std, folds } = job.result ?? {};
  if (value === null || mean?.[name] === undefined) return number(value);
  return [spreadOut(value, std?.[name]), h("small", { class: "below" }, `mean of ${folds?.length ?? job.progress.folds} folds`)];
}

function drawResults() {
  const shown = columns();
  const { key, down } = settings.sort;
  const by = shown.find((column) => column.key === key);
  const rows = ready();
  if (by) rows.sort((a, b) => order(by.of(a), by.of(b)) * (down ? -1 : 1));
  const head = shown.map((column) => {
    const sorted = column.key === key ? (down ? "descending" : "ascending") : null;
    const press = () => {
      settings.sort = { key: column.key, down: column.key === key && !down };
      drawResults();
      the("results").querySelector(`[data-key="${CSS.escape(column.key)}"]`).focus();
    };
    const sign = sorted === null ? "" : down ? " ↓" : " ↑";
    return h("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": sorted }, h("button", { type: "button", "data-key": column.key, onclick: press }, column.title + sign));
  });
  const body = rows.map((each) =>
    h("tr", {}, h("td", {}, h("button", { type: "button", class: "quiet", "aria-label": `Remove ${title(each)}`, onclick: () => put(ids().filter((id) => id !== each.job.id)) }, "Remove")), shown.map((column) => h("td", { class: column.number ? "number" : null }, column.write(each)))),
  );
  const table = h("table", {}, h("thead", {}, h("tr", {}, h("td", {}), head)), h("tbody", {}, body));
  // Buttons have listeners, so the table is replaced whenever anything in it is another.
  const text = table.textContent + key + down;
  if (the("results").dataset.shown === text) return;
  the("results").dataset.shown = text;
  const focused = document.activeElement?.dataset?.key;
  the("results").replaceChildren(table);
  if (focused) the("results").querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function order(a, b) {
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
  return a < b ? -1 : a > b ? 1 : 0;
}

/** A value of a spec; a rounded number has all its digits as its title. */
function cell(value) {
  return h("td", { title: typeof value === "number" ? String(value) : null }, asText(value));
}

/** The leaves of a spec by their dotted paths. */
function leaves(value, path = "", found = new Map()) {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    for (const [key, inside] of Object.entries(value)) leaves(inside, path ? `${path}.${key}` : key, found);
  } else {
    found.set(path, value ?? NONE);
  }
  return found;
}

function drawSpecs() {
  const all = ready();
  const specs = all.map(({ job }) => leaves(job.spec));
  const paths = [...new Set(specs.flatMap((spec) => [...spec.keys()]))].filter((path) => path !== "name" && !path.startsWith("tags."));
  const differs = (path) => new Set(specs.map((spec) => JSON.stringify(spec.get(path) ?? NONE))).size > 1;
  const first = paths.filter(differs);
  const rest = the("same").checked ? paths.filter((path) => !differs(path)) : [];
  const row = (path, other) => h("tr", { class: other ? "differs" : null }, h("th", { scope: "row" }, h("code", {}, path)), specs.map((spec) => cell(spec.get(path) ?? NONE)));
  const none = first.length === 0 && h("tr", {}, h("td", { colspan: all.length + 1, class: "muted" }, all.length > 1 ? "The specs are the same." : "Add another job to see what differs."));
  fill(
    the("fields"),
    h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Field"), all.map((each) => h("th", { scope: "col" }, swatch(each), title(each))))), h("tbody", {}, none, first.map((path) => row(path, true)), rest.map((path) => row(path, false)))),
  );
}

// What the reader does

async function add(text) {
  problem();
  try {
    const id = /^job_[0-9a-z]{26}$/.test(text) ? text : await idOf(text);
    if (id === null) return;
    the("job").value = "";
    if (!ids().includes(id)) put([...ids(), id]);
  } catch (error) {
    problem(error.message);
  }
}

/** The newest job with this name, or with the only name that contains it; null if there is none, or a choice. */
async function idOf(text) {
  const newest = async (name) => (await get(`/v1/jobs?${new URLSearchParams({ name, limit: 1 })}`)).data[0]?.id ?? null;
  const found = await newest(text);
  if (found !== null) return found;
  const names = await namesWith(text);
  if (names.length === 1) return newest(names[0]);
  const choose = (name) => h("button", { type: "button", class: "quiet", onclick: () => add(name) }, name);
  if (names.length) problem(`Several names contain “${text}”. Add one of them: `, names.map(choose));
  else problem(`None of the newest ${NEWEST} jobs that are no trials has “${text}” in its name. An older job needs its whole name or its id.`);
  return null;
}

fill(the("by"), choices("Horizontal axis", [["epoch", "Epochs"], ["step", "Steps"], ["time", "Time"]], settings.by, (by) => { settings.by = by; zoom(null); }));
fill(the("scale"), choices("Vertical axis", [["linear", "Linear"], ["log", "Logarithmic"], ["calm", "Without outliers"]], settings.scale, (scale) => { settings.scale = scale; drawChart(); }));
the("smoothing").value = 0;
the("smoothing").addEventListener("input", () => { settings.smoothing = Number(the("smoothing").value); drawChart(); });
the("field").addEventListener("change", () => { settings.field = the("field").value; zoom(null); });
the("whole").addEventListener("click", () => zoom(null));
the("same").addEventListener("change", drawSpecs);
the("add").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = the("job").value.trim();
  if (text) add(text);
});
suggestNames(the("job"));
addEventListener("popstate", follow);
follow();
