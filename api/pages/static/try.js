// Asking a model: a form made of the columns that it reads, or a CSV. Its answer, and the request as a command.

import { drawAnswer, seconds } from "./answers.js";
import { ask, get } from "./api.js";
import { fill, h, problem, say, the } from "./dom.js";
import { bytes, dated, number, words } from "./format.js";
import { may, Scope, session } from "./session.js";
import { trusted } from "./trust.js";

const query = new URLSearchParams(location.search);
const MOST_ROWS = 500;
const EMPTY_ROWS = 3;
const FEWEST_CHARACTERS = 10;
const LONG_CURL = 20000;
const ASKED = "query";
let described = null; // its model.json
let about = null; // {path, job, dataset, title, link}
let form = null; // {way, columns, whole}: what is asked, as columns of steps and as fields of the whole sequence
let file = null; // {name, text}
let examples = [];
let turn = 0;

async function find() {
  if (query.get("job")) {
    const job = await get(`/v1/jobs/${encodeURIComponent(query.get("job"))}`);
    if (!job.links.model) throw new Error(job.terminal ? "This job has no model." : "The model can be asked when the job has ended.");
    return { path: `/v1/jobs/${job.id}/predict`, job: job.id, dataset: job.dataset?.id, title: job.name ?? job.id, link: `/jobs/${job.id}` };
  }
  const name = query.get("model");
  if (!name) throw new Error("Choose a model in the list, or a job that has ended.");
  const base = `/v1/models/${encodeURIComponent(name)}`;
  const ref = query.get("version") ?? "latest";
  const [version, model, page] = await Promise.all([get(`${base}/versions/${encodeURIComponent(ref)}`), get(base), get(`${base}/versions?limit=50`)]);
  const names = [...new Set([...Object.keys(model.aliases), "latest", ...page.data.map((each) => String(each.version)), ref])];
  the("version").replaceChildren(...names.map((each) => h("option", { value: each }, /^\d+$/.test(each) ? `version ${each}` : each)));
  the("version").value = ref;
  the("version-field").hidden = false;
  return { path: `${base}/versions/${encodeURIComponent(ref)}/predict`, job: version.job_id, dataset: version.dataset?.id, title: name, link: `/models/${encodeURIComponent(name)}` };
}

// The form

/**
 * What a model reads, by its model.json. A model of a table is asked with rows of it, so that times and words are read as
 * they were; a model of arrays, or of a table with a sequence in each row, with numbers in the order of its features.
 */
function formOf(document_) {
  const { preprocessing = {}, data = {}, forecast, task } = document_;
  const schema = data?.schema ?? null;
  const field = (each) => ({ name: each.name, words: each.words ?? null, number: !each.words });
  const whole = (preprocessing.static?.features ?? []).map(field);
  if (preprocessing.text) return { way: whole.length && schema?.text ? "textRows" : "texts", columns: [{ name: schema?.text ?? "text", text: true }], whole };
  const features = preprocessing.features?.map(field) ?? Array.from({ length: document_.input_size }, (_, place) => ({ name: `feature ${place + 1}`, words: null, number: true }));
  if (!schema || !["long", "files"].includes(schema.layout)) return { way: "x", columns: features, whole };
  const read = new Map(features.map((each) => [each.name, each]));
  const names = [...new Set([...(task === "series" ? data.targets ?? schema.target : []), ...schema.features])];
  const columns = names.map((name) => read.get(name) ?? { name, words: null });
  if (schema.order) columns.unshift({ name: schema.order, order: true });
  return { way: "rows", columns, whole, group: schema.group ?? [], targets: task === "series" ? data.targets ?? schema.target : [], lookback: forecast?.lookback, known: forecast?.known_future ?? [], horizon: forecast?.horizon ?? 0 };
}

function input(column, label, value = "") {
  if (column.words) {
    return h("select", { "aria-label": label }, h("option", { value: "" }, "unknown"), column.words.map((word) => h("option", { value: word, selected: String(word) === String(value) }, word)));
  }
  if (column.text) return h("textarea", { "aria-label": label, rows: 3 }, String(value));
  const size = column.order ? Math.max(String(value ?? "").length, FEWEST_CHARACTERS) : null; // a time is longer than a number
  return h("input", { "aria-label": label, autocomplete: "off", size, inputmode: column.order ? null : "decimal", "data-number": column.number, ".value": value === null ? "" : String(value) });
}

function drawForm(example = null) {
  the("whole").hidden = form.whole.length === 0;
  the("whole").replaceChildren(...form.whole.map((column) => h("label", { class: "field" }, h("span", {}, column.name), input(column, column.name, example?.static?.[column.name]))));
  const isText = form.way === "texts" || form.way === "textRows";
  say(the("add"), isText ? "Add a text" : "Add a step");
  const given = example?.rows.length ? example.rows : Array.from({ length: isText ? 1 : Math.min(form.lookback ?? EMPTY_ROWS, MOST_ROWS) }, () => ({}));
  const head = h("tr", {}, h("td", {}), form.columns.map((column) => h("th", { scope: "col" }, column.name)));
  the("steps").replaceChildren(h("table", { "aria-label": "Steps of the sequence" }, h("thead", {}, head), h("tbody", {}, given.slice(-MOST_ROWS).map(line))));
  changed();
}

function line(values, place) {
  return h("tr", {}, h("td", { class: "place" }, String(place + 1)), form.columns.map((column) => h("td", {}, input(column, `${column.name}, step ${place + 1}`, values[column.name] ?? ""))));
}

function body() {
  return the("steps").querySelector("tbody");
}

/** A cell as JSON: a number where it is one, null where it is empty. */
function value(element, column, { code = false } = {}) {
  const text = element.value.trim();
  if (text === "") return code && column.words ? 0 : null;
  if (column.words) return code ? column.words.findIndex((word) => String(word) === text) + 1 : column.words.find((word) => String(word) === text);
  if (column.text) return element.value;
  return Number.isFinite(Number(text)) ? Number(text) : text;
}

function cells(tr) {
  return [...tr.querySelectorAll("input, select, textarea")];
}

/** What is sent: a question of docs/predict.md, or the dropped file. */
function question() {
  if (file) return { type: "text/csv", text: file.text };
  const code = form.way === "x";
  const lines = [...body().rows].map((tr) => cells(tr).map((element, place) => value(element, form.columns[place], { code })));
  const wholes = [...the("whole").querySelectorAll("input, select")].map((element, place) => value(element, form.whole[place], { code: form.way !== "rows" && form.way !== "textRows" }));
  const named = Object.fromEntries(form.whole.map((column, place) => [column.name, wholes[place]]));
  let found;
  if (form.way === "texts") {
    found = { texts: lines.map(([text]) => text ?? "") };
  } else if (form.way === "x") {
    found = { x: [lines], ...(wholes.length ? { static: [wholes] } : {}) };
  } else {
    const group = Object.fromEntries((form.group ?? []).map((column) => [column, ASKED]));
    found = { rows: lines.map((row) => ({ ...group, ...Object.fromEntries(form.columns.map((column, place) => [column.name, row[place]])), ...named })) };
  }
  return { type: "application/json", text: JSON.stringify(found) };
}

/** What was given of the targets of a forecast, for its chart. */
function past() {
  if (file || !form.targets?.length) return { inTime: Boolean(file), of: {} };
  const order = form.columns.findIndex((column) => column.order);
  const rows = [...body().rows].map((tr) => cells(tr).map((element) => element.value.trim()));
  const x = rows.map((row) => (order < 0 ? null : seconds(row[order])));
  const of = Object.fromEntries(form.targets.map((target) => {
    const place = form.columns.findIndex((column) => column.name === target);
    const known = rows.flatMap((row, index) => (row[place] !== "" && Number.isFinite(Number(row[place])) ? [index] : []));
    return [target, { x: known.map((index) => x[index]), y: known.map((index) => Number(rows[index][place])) }];
  }));
  return { inTime: x.every((each) => each !== null), of };
}

// The command

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

async function drawCurl() {
  const { type, text } = question();
  const signed = (await session())?.signed_in;
  const data = file ? `--data-binary @${quoted(file.name)}` : text.length > LONG_CURL ? "--data-binary @question.json" : `--data-binary ${quoted(text)}`;
  const parts = [`curl ${quoted(location.origin + about.path)}`, ...(signed ? ['-H "Authorization: Bearer $LOOPLINE_API_KEY"'] : []), `-H 'Content-Type: ${type}'`, data];
  the("save").hidden = file !== null || text.length <= LONG_CURL;
  say(the("curl"), parts.join(" \\\n  "));
}

let waiting = null;
function changed() {
  forgetAnswer();
  clearTimeout(waiting);
  waiting = setTimeout(drawCurl, 150);
}

// Asking

/** Marks the cells that should have a number and do not; gives a sentence about the first of them, or null. */
function checkNumbers() {
  const inputs = file ? [] : [...the("form").querySelectorAll("[data-number]")];
  const wrong = inputs.filter((each) => !Number.isFinite(Number(each.value.trim())));
  for (const each of wrong) each.setAttribute("aria-invalid", "true");
  wrong[0]?.focus();
  const [first] = wrong;
  return first ? `${first.getAttribute("aria-label")}: “${first.value.trim()}” is not a number. Leave it empty if it is unknown.` : null;
}

let answered = false;
let asked = 0; // an answer counts only if the question is still the same

/** An answer stands only beside the question that it answers. */
function forgetAnswer() {
  asked += 1;
  if (!answered) return;
  answered = false;
  for (const id of ["asking", "who"]) say(the(id), "");
  fill(the("trusted"));
  fill(the("answer"), h("p", { class: "muted" }, "It appears here when you ask."));
}

async function send(event) {
  event.preventDefault();
  forgetAnswer();
  const wrong = checkNumbers();
  problem(the("problem"), wrong ? new Error(wrong) : null);
  if (wrong) return;
  const mine = asked;
  const { type, text } = question();
  const before = past();
  the("ask").disabled = true;
  say(the("asking"), "asking …");
  try {
    const began = performance.now();
    const { body: found } = await ask(about.path, { method: "POST", json: text, headers: { "content-type": type } });
    if (mine !== asked) return;
    say(the("asking"), `answered in ${Math.round(performance.now() - began)} ms`);
    say(the("who"), found.model.name ? `${found.model.name}@${found.model.version}` : "");
    drawAnswer(the("answer"), found, before);
    fill(the("trusted"), trusted(described, found));
    answered = true;
  } catch (error) {
    if (mine !== asked) return;
    problem(the("problem"), error);
  } finally {
    the("ask").disabled = false;
    if (!answered) say(the("asking"), "");
  }
}

async function take(given) {
  if (!given) return;
  file = { name: given.name, text: await given.text() };
  say(the("dropped"), `${given.name}, ${bytes(given.size)}`);
  showWay();
}

function showWay() {
  const isFile = file !== null;
  the("whole").hidden = isFile || form.whole.length === 0;
  for (const id of ["steps", "more"]) the(id).hidden = isFile;
  the("forget").hidden = !isFile;
  drawSource(null);
  changed();
}

/** Cells of a spreadsheet, or lines of a CSV, from the cell on in which they are pasted. */
function paste(event) {
  const text = event.clipboardData.getData("text/plain").replace(/\r?\n$/, "");
  if (!/[\t\n]/.test(text) || event.target.tagName === "TEXTAREA" || !event.target.closest("tbody")) return;
  event.preventDefault();
  const lines = text.split(/\r?\n/).slice(0, MOST_ROWS).map((each) => each.split(each.includes("\t") ? "\t" : ","));
  const tr = event.target.closest("tr");
  const [top, left] = [tr.rowIndex - 1, cells(tr).indexOf(event.target)];
  for (const each of body().querySelectorAll("[aria-invalid]")) each.removeAttribute("aria-invalid");
  lines.forEach((parts, down) => {
    if (top + down >= body().rows.length) body().append(line({}, body().rows.length));
    const there = cells(body().rows[top + down]);
    parts.forEach((part, right) => {
      if (there[left + right]) there[left + right].value = part.trim();
    });
  });
  drawSource(null);
  changed();
}

/** How many steps a model reads at most: a forecast the last ones, and those to come if it knows something of them. */
function mostRead() {
  return form.lookback ? form.lookback + (form.known.length ? form.horizon : 0) : MOST_ROWS;
}

/** Says which sequence of the data set the form shows, and what is known of it, until it is changed. */
function drawSource(example) {
  the("source").hidden = !example || form.columns[0].text === true;
  if (the("source").hidden) return;
  const { id, target, rows } = example;
  const what = id === null ? "a sequence" : `sequence ${id}`;
  say(the("source"), `${number(rows.length)} steps of ${what} of the data set${target === null ? "" : `, which is ${target} there`}. The model may have been trained on it.`);
}

/** Sequences of the data set that the model was trained on, as rows of this form. */
async function exemplify() {
  if (!about.dataset) return;
  const preview = await get(`/v1/datasets/${about.dataset}/preview`);
  const place = new Map(preview.columns.map((column, index) => [column.name, index]));
  const isText = form.way === "texts" || form.way === "textRows";
  examples = preview.sequences.map((sequence) => {
    const still = Object.fromEntries(form.whole.map((column) => [column.name, sequence.static?.[column.name]]));
    const about = { id: sequence.id, target: sequence.target };
    if (isText) return { rows: [{ [form.columns[0].name]: sequence.text }], static: still, ...about };
    const times = sequence.times && dated(sequence.times);
    const of = (column, step, at) => (column.order ? times?.[step] ?? step + 1 : sequence.values[place.get(column.name) ?? at]?.[step]);
    const length = sequence.values[0]?.length ?? 0;
    const rows = Array.from({ length }, (_, step) => Object.fromEntries(form.columns.map((column, at) => [column.name, of(column, step, at)])));
    return { rows: rows.slice(-mostRead()), static: still, ...about };
  });
  examples = examples.filter((each) => each.rows.length);
  if (form.known?.length) for (const { rows } of examples) for (const row of rows.slice(-form.horizon)) for (const target of form.targets) row[target] = null;
  the("example").hidden = examples.length < 2;
}

function next() {
  const example = examples[(turn += 1) % examples.length];
  drawForm(example);
  drawSource(example);
}

async function start() {
  about = await find();
  const document_ = (described = await get(`/v1/jobs/${about.job}/model/model.json`));
  form = formOf(document_);
  document.title = `Try ${about.title} · Loopline`;
  say(the("title"), `Try ${about.title}`);
  the("about").href = about.link;
  say(the("about"), query.get("job") ? "The job" : "The model");
  const names = { classes: "a class for each sequence", multilabel: "labels", values: "values", tags: "a class for each step", series: "a forecast", text: "the next step" };
  if (form.known?.length) say(the("ahead"), `End with ${form.horizon} steps to come: with ${form.known.join(", ")}, and without ${form.targets.join(", ")}.`);
  say(the("reads"), `${document_.forecast ? `reads the last ${document_.forecast.lookback} steps and ` : ""}answers with ${names[document_.task] ?? words(document_.task)}`);
  await exemplify().catch(() => {}); // it may be deleted; the form is empty then
  the("head").hidden = false;
  the("asks").hidden = false;
  drawForm(examples[0] ?? null);
  drawSource(examples[0]);
  if (await may(Scope.PREDICT)) return;
  the("ask").disabled = true;
  problem(the("problem"), new Error("Your key may not ask models: it lacks the scope “predict”."));
}

the("form").addEventListener("submit", send);
the("form").addEventListener("input", (event) => {
  event.target.removeAttribute("aria-invalid");
  drawSource(null);
  changed();
});
the("steps").addEventListener("paste", paste);
the("add").addEventListener("click", () => {
  if (body().rows.length < MOST_ROWS) body().append(line({}, body().rows.length));
  cells(body().rows[body().rows.length - 1])[0]?.focus();
  drawSource(null);
  changed();
});
the("remove").addEventListener("click", () => {
  if (body().rows.length > 1) body().lastElementChild.remove();
  drawSource(null);
  changed();
});
the("example").addEventListener("click", next);
the("file").addEventListener("change", () => take(the("file").files[0]));
the("forget").addEventListener("click", () => {
  file = null;
  the("file").value = "";
  say(the("dropped"), "");
  showWay();
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  the("form").addEventListener(kind, (event) => {
    event.preventDefault();
    the("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
the("version").addEventListener("change", () => location.assign(`/try?${new URLSearchParams({ model: query.get("model"), version: the("version").value })}`));
the("save").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([question().text], { type: "application/json" }));
  h("a", { href: address, download: "question.json" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
});
the("copy").addEventListener("click", () => navigator.clipboard?.writeText(the("curl").textContent).then(() => say(the("copy"), "Copied")));
start().catch((error) => {
  the("missing").hidden = false;
  say(the("missing-why"), error.message);
});
