// A new job, search or batch: a spec as text, which is checked by a dry run while it is written. Fields beside it write
// the text for those who know no spec yet.

import { ask, get, Problem } from "./api.js";
import { fill, h, say, the } from "./dom.js";
import { KINDS, starter, yaml } from "./kinds.js";
import { located } from "./pointers.js";
import { may, Scope } from "./session.js";
import { inWords } from "./wording.js";

const PAUSE_MILLISECONDS = 500;
const MOST_DATASETS = 100;
/** The fields of the form, by the place in the document that each of them writes. */
const PLACES = { dataset: ["/data/dataset"], budget: ["/search/minutes", "/search/trials"] };
const query = new URLSearchParams(location.search);
const kindName = query.get("kind") in KINDS ? query.get("kind") : "job";
const kind = KINDS[kindName];
const editor = the("spec");
let timer = null;
let checked = 0;
let key = fresh();
let base = null; // the spec of the job that is run again
let datasets = [];

/** A key by which the service knows a submission that is sent twice. */
function fresh() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The spec of a job, to submit it once more: with the version of the data set that it had. */
function once_more(job) {
  const document_ = { ...job.spec, tags: job.tags };
  if (job.dataset) document_.data = { ...document_.data, dataset: job.dataset.id };
  if (job.trial !== null && document_.data?.split) {
    const { evaluate_test: _, ...split } = document_.data.split; // a search sets the test part of its trials aside
    document_.data = { ...document_.data, split };
  }
  return document_;
}

function named(dataset) {
  return `${dataset.name}@${dataset.version}`;
}

/** Fills the fields, and the text from them or from the job that is run again. */
async function start() {
  drawKinds();
  if (query.get("from")) {
    const job = await get(`/v1/jobs/${encodeURIComponent(query.get("from"))}`);
    const title = job.name ?? job.id;
    say(the("title"), { job: `Run ${title} again`, search: `Search from ${title}`, batch: `Vary ${title}` }[kindName]);
    base = once_more(job);
  } else {
    await findDatasets();
  }
  the("dataset-field").hidden = datasets.length === 0;
  the("budget-field").hidden = kindName !== "search";
  the("fields").hidden = the("dataset-field").hidden && the("budget-field").hidden;
  write();
}

async function findDatasets() {
  const wanted = query.get("dataset");
  const found = (await get(`/v1/datasets?limit=${MOST_DATASETS}`)).data.filter((each) => each.status === "ready");
  const asked = wanted && (found.find((each) => [each.id, named(each)].includes(wanted)) ?? (await get(`/v1/datasets/${encodeURIComponent(wanted)}`)));
  datasets = asked ? [asked, ...found.filter((each) => each.id !== asked.id)] : found;
  the("dataset").replaceChildren(...datasets.map((each) => h("option", { value: each.id }, named(each))));
}

function drawKinds() {
  document.title = `${kind.title} · Loopline`;
  say(the("title"), kind.title);
  say(the("about"), kind.about);
  const links = Object.entries({ job: "One job", search: "A search", batch: "A batch" }).map(([name, text]) => {
    const to = new URLSearchParams(query);
    to.set("kind", name);
    return h("a", { class: "button", href: `/submit?${to}`, "aria-current": name === kindName && "page" }, text);
  });
  fill(the("kinds"), links);
}

/** Writes the text from the fields. A text that was changed by hand is left alone until somebody asks for this. */
function write() {
  const dataset = datasets.find((each) => each.id === the("dataset").value);
  const amount = the("budget").valueAsNumber;
  const budget = { [the("unit").value]: Number.isNaN(amount) ? null : amount };
  const document_ = kind.document(base ?? starter(dataset), { budget, isComplete: base !== null });
  editor.value = base ? JSON.stringify(document_, null, 2) : yaml(document_);
  the("by-hand").hidden = true;
  for (const id of ["dataset", "budget", "unit"]) the(id).disabled = false;
  drawTarget(dataset);
  changed();
}

function drawTarget(dataset) {
  the("target").hidden = !dataset;
  if (!dataset) return;
  const target = dataset.schema?.target?.join(", ") || { series: "the steps that come next" }[dataset.target] || (dataset.classes ? `one of ${dataset.classes.length} classes` : null);
  fill(the("target"), target && ["Predicts ", h("b", {}, target), ". "], h("a", { href: `/datasets/${dataset.id}` }, "See its columns"));
}

function byHand() {
  the("by-hand").hidden = the("fields").hidden;
  the("target").hidden = true; // the text may name another data set
  for (const id of ["dataset", "budget", "unit"]) the(id).disabled = true;
  changed();
}

function changed() {
  key = fresh();
  the("submit").disabled = true;
  clearTimeout(timer);
  timer = setTimeout(check, PAUSE_MILLISECONDS);
}

function sent() {
  const text = editor.value;
  const type = text.trimStart().startsWith("{") ? "application/json" : "application/yaml";
  return { method: "POST", json: text, headers: { "content-type": type } };
}

async function check() {
  const mine = (checked += 1);
  say(the("checking"), "checking …");
  try {
    const { body } = await ask(`${kind.path}/dry-run`, sent());
    if (mine !== checked) return;
    drawForeseen(body);
    drawProblems(null);
    the("submit").disabled = !(await may(Scope.SUBMIT));
  } catch (error) {
    if (mine !== checked) return;
    drawProblems(error);
  } finally {
    if (mine === checked) say(the("checking"), "");
  }
}

function drawForeseen(dry) {
  const { pairs, warnings, chosen } = kind.foreseen(dry);
  fill(the("warnings"), warnings.map((each) => h("p", { class: "notice warn" }, inWords(each))));
  fill(the("foreseen"), pairs.filter(([, value]) => value).flatMap(titled));
  the("chosen-part").hidden = chosen.length === 0;
  say(the("chosen-title"), `${chosen.length} fields are chosen for the data, and why`);
  fill(the("chosen"), chosen.flatMap((each) => titled([each.field, `${JSON.stringify(each.value)}: ${each.why}`])));
}

function titled([title, value]) {
  return [h("dt", {}, title), h("dd", {}, value)];
}

/** Start and end of a line of the text, without its indent. */
function placeOf(line) {
  const before = editor.value.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  const text = editor.value.slice(before).split("\n", 1)[0];
  return [before + text.search(/\S|$/), before + text.trimEnd().length];
}

/** What is wrong, each with its line; pressing it selects the place in the text. */
function drawProblems(error) {
  editor.setAttribute("aria-invalid", String(error !== null));
  drawFieldProblems(error?.errors ?? []);
  if (error === null) {
    fill(the("problems"));
    return;
  }
  the("submit").disabled = true;
  for (const id of ["warnings", "foreseen", "chosen"]) fill(the(id));
  the("chosen-part").hidden = true;
  const found = (error.errors ?? []).map((each) => {
    const place = each.line ? placeOf(each.line) : located(editor.value, each.pointer);
    const line = each.line ?? (place && editor.value.slice(0, place[0]).split("\n").length);
    const go = () => {
      editor.focus();
      editor.setSelectionRange(...place);
      editor.scrollTop = (line - 4) * (editor.scrollHeight / editor.value.split("\n").length);
    };
    const where = each.pointer.slice(1).replaceAll("/", ".");
    return h("li", {}, place ? h("button", { type: "button", class: "link", onclick: go }, `line ${line}`) : null, " ", h("code", {}, where), " ", each.detail);
  });
  fill(the("problems"), h("div", { class: "notice bad" }, h("p", {}, error.message), found.length > 0 && h("ul", { class: "plain" }, found)));
}

/** What is wrong with a field of the form, beside it. */
function drawFieldProblems(errors) {
  for (const [field, pointers] of Object.entries(PLACES)) {
    const wrong = errors.filter((each) => pointers.some((pointer) => each.pointer.startsWith(pointer)));
    the(field).setAttribute("aria-invalid", String(wrong.length > 0));
    say(the(`${field}-problem`), wrong.map((each) => each.detail).join("; "));
  }
}

async function submit(event) {
  event.preventDefault();
  the("submit").disabled = true;
  try {
    const request = sent();
    request.headers["idempotency-key"] = key;
    const { body } = await ask(kind.path, request);
    location.assign(`${kind.page}/${body.id}`);
  } catch (error) {
    drawProblems(error);
    the("submit").disabled = error instanceof Problem && error.status === 422;
  }
}

editor.addEventListener("input", byHand);
the("fields").addEventListener("input", write);
the("rewrite").addEventListener("click", write);
the("form").addEventListener("submit", submit);
start().catch(drawProblems);
