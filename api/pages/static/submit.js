// A new job: a spec as text, which is checked by a dry run while it is written.

import { ask, get, Problem } from "./api.js";
import { fill, h, say, the } from "./dom.js";
import { bytes, number } from "./format.js";
import { located } from "./pointers.js";
import { may, Scope } from "./session.js";

const PAUSE_MILLISECONDS = 500;
const query = new URLSearchParams(location.search);
const editor = the("spec");
let timer = null;
let checked = 0;
let key = fresh();

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

const HORIZON = 24;

/** The text that the page begins with: the spec of another job, or one that leaves all but its data to the service. */
async function first() {
  if (query.get("from")) {
    const job = await get(`/v1/jobs/${encodeURIComponent(query.get("from"))}`);
    say(the("title"), `Run ${job.name ?? job.id} again`);
    return JSON.stringify(once_more(job), null, 2);
  }
  const named = query.get("dataset");
  const dataset = named ? await get(`/v1/datasets/${encodeURIComponent(named)}`) : (await get("/v1/datasets?limit=1")).data[0];
  if (!dataset) return "name: first\ndata: {synthetic: {samples: 1000, length: 50, features: 10, classes: 2}}\n";
  const task = dataset.target === "series" ? `task: {name: forecast, horizon: ${HORIZON}}\n` : "";
  return `name: ${dataset.name}\n${task}data: {dataset: ${dataset.name}@${dataset.version}}\n`;
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
    const { body } = await ask("/v1/jobs/dry-run", sent());
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
  const pairs = [
    ["Data set", dry.dataset?.name],
    ["Parameters", dry.parameters === null ? null : number(dry.parameters)],
    ["Samples", dry.samples && `${number(dry.samples.train)} for training, ${number(dry.samples.validation)} for validation, ${number(dry.samples.test)} for test`],
    ["Steps", dry.steps === null ? null : `${number(dry.steps)}, ${number(dry.steps_per_epoch)} in an epoch`],
    ["Memory", dry.memory_bytes === null ? null : `at least ${bytes(dry.memory_bytes)}`],
    ["Time", dry.estimate.message],
    ["Faster", dry.cheaper],
    ["Not checked", dry.unchecked],
  ];
  fill(the("warnings"), dry.warnings.map((each) => h("p", { class: "notice warn" }, each)));
  fill(the("foreseen"), pairs.filter(([, value]) => value).flatMap(titled));
  the("chosen-part").hidden = dry.chosen.length === 0;
  say(the("chosen-title"), `${dry.chosen.length} fields are chosen for the data, and why`);
  fill(the("chosen"), dry.chosen.flatMap((each) => titled([each.field, `${JSON.stringify(each.value)}: ${each.why}`])));
}

function titled([title, value]) {
  return [h("dt", {}, title), h("dd", {}, value)];
}

/** What is wrong, each with its line; pressing it selects the place in the text. */
function drawProblems(error) {
  editor.setAttribute("aria-invalid", String(error !== null));
  if (error === null) {
    fill(the("problems"));
    return;
  }
  the("submit").disabled = true;
  for (const id of ["warnings", "foreseen", "chosen"]) fill(the(id));
  the("chosen-part").hidden = true;
  const found = (error.errors ?? []).map((each) => {
    const place = located(editor.value, each.pointer);
    const line = place && editor.value.slice(0, place[0]).split("\n").length;
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

async function submit(event) {
  event.preventDefault();
  the("submit").disabled = true;
  try {
    const request = sent();
    request.headers["idempotency-key"] = key;
    const { body } = await ask("/v1/jobs", request);
    location.assign(`/jobs/${body.id}`);
  } catch (error) {
    drawProblems(error);
    the("submit").disabled = error instanceof Problem && error.status === 422;
  }
}

editor.addEventListener("input", () => {
  key = fresh();
  the("submit").disabled = true;
  clearTimeout(timer);
  timer = setTimeout(check, PAUSE_MILLISECONDS);
});
the("form").addEventListener("submit", submit);
first().then(
  (text) => {
    editor.value = text;
    return check();
  },
  (error) => drawProblems(error),
);
