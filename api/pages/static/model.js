// A model: its versions with their metric over time, which alias points where, and why the newest was not promoted.

import { ask, get } from "./api.js";
import { Chart } from "./chart.js";
import { fill, h, problem, say, the } from "./dom.js";
import { moment, NONE, number, words } from "./format.js";
import { live } from "./live.js";
import { may, Scope } from "./session.js";
import { reasoned, sure } from "./state.js";
import { table } from "./tables.js";
import { aliases, goesBack, judgedBy, metricsOf, PRODUCTION, verdict } from "./versions.js";

const name = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/models/${encodeURIComponent(name)}`;
const PAGE = 100;
const MOST_REASON = 1000;
const chart = new Chart(the("metric"), { title: "Metric of each version" });
let model = null;
let newest = [];
let older = [];
let more = false;
let metric = null;
let moves = null; // of its aliases, newest first, and whether there are more
let allowed = false;

function versions() {
  return [...newest, ...older];
}

function draw() {
  if (!model || !newest.length) return;
  document.title = `${name} · Loopline`;
  the("model").hidden = false;
  say(the("title"), name);
  drawChart();
  drawHead();
  drawVersions();
}

function drawHead() {
  const used = model.aliases[PRODUCTION];
  const inUse = versions().find((version) => version.version === used);
  const { latest } = model;
  fill(the("alarms"), isHeldBack(latest) && h("div", { class: "notice warn" }, h("b", {}, `Version ${latest.version} was held back. `), latest.retrain.message));
  const tile = (title, value, below) => h("div", {}, h("dt", {}, title), h("dd", {}, value, below && h("small", {}, below)));
  const value = (version) => (version && metric && version.metrics[metric] !== undefined ? `${words(metric)} ${number(version.metrics[metric])}` : null);
  const others = Object.entries(model.aliases).filter(([alias]) => alias !== PRODUCTION);
  fill(
    the("tiles"),
    tile("In production", used === undefined ? "no version" : `version ${used}`, value(inUse)),
    tile("Newest", `version ${latest.version}`, value(latest)),
    others.map(([alias, version]) => tile(alias, `version ${version}`)),
    tile("Data of the newest", latest.dataset ? h("a", { href: `/datasets/${latest.dataset.id}` }, `${latest.dataset.name}@${latest.dataset.version}`) : "synthetic"),
  );
  fill(
    the("actions"),
    h("a", { class: "button main", href: `/try?${new URLSearchParams({ model: name, version: used === undefined ? latest.version : PRODUCTION })}` }, "Try it"),
    allowed && used !== undefined && canGoBack(used) && h("button", { type: "button", onclick: rollBack }, "Roll back"),
  );
}

/** Whether it is the newest version, and the head of the page says why it was held back. */
function isHeldBack({ version, retrain }) {
  return version === model.latest.version && version !== model.aliases[PRODUCTION] && retrain?.decision === "held_back";
}

/** It may, where not all of its moves or versions are known here. */
function canGoBack(used) {
  if (moves === null) return false;
  return moves.has_more || more || goesBack(moves.data, PRODUCTION, used, new Set(versions().map((each) => each.version)));
}

function drawChart() {
  const names = metricsOf(versions());
  const choice = the("metric-name");
  if (choice.options.length !== names.length) choice.replaceChildren(...names.map((each) => h("option", { value: each }, words(each))));
  if (!names.includes(metric)) metric = judgedBy(versions());
  the("metric-title").closest("section").hidden = metric === null;
  if (metric === null) return;
  choice.value = metric;
  const drawn = versions().toReversed().filter((version) => (version.metrics[metric] ?? null) !== null);
  const points = (chosen) => ({ x: chosen.map((version) => version.version), y: chosen.map((version) => version.metrics[metric]) });
  const promoted = drawn.filter((version) => version.aliases.includes(PRODUCTION));
  const lines = [
    { label: words(metric), colour: "series-1", points: 7, ...points(drawn) },
    { label: "in production", colour: "good", dots: true, size: 11, told: false, ...points(promoted) },
  ];
  chart.show({ lines, x: "version", whole: true });
}

function drawVersions() {
  const used = model.aliases[PRODUCTION];
  const rows = versions().map((version) => {
    const number_ = version.version;
    const card = version.files.some((file) => file.name === "README.md");
    return [
      String(number_),
      aliases(version),
      metric ? number(version.metrics[metric]) : NONE,
      h("div", {}, verdict(version), version.retrain && !isHeldBack(version) && h("p", { class: "small muted why" }, version.retrain.message)),
      moment(version.created_at),
      version.dataset ? h("a", { href: `/datasets/${version.dataset.id}` }, `${version.dataset.name}@${version.dataset.version}`) : "synthetic",
      h("div", { class: "row tight" }, h("a", { href: `/jobs/${version.job_id}` }, "Job"), card && h("a", { href: `/jobs/${version.job_id}/card` }, "Card"), h("a", { href: `/try?${new URLSearchParams({ model: name, version: number_ })}` }, "Try it"), h("a", { href: version.links.download, download: true }, "Download")),
      allowed && number_ !== used ? h("button", { type: "button", "aria-label": `Promote version ${number_}`, onclick: () => promote(number_) }, "Promote") : "",
    ];
  });
  const titles = [["Version", "number"], ["Aliases"], [metric ? words(metric) : "Value", "number"], ["What came of it"], ["Made"], ["Data"], [""], [""]];
  fill(the("versions"), table(titles, rows, "Versions, newest first"));
  the("more").hidden = !more;
}

function drawHistory(page) {
  moves = page;
  draw();
  const done = { promote: "was promoted to", rollback: "went back to", demote: "was removed from" };
  const items = page.data.map((move) =>
    h(
      "li",
      {},
      moment(move.at, { seconds: true }),
      h("span", {}, h("b", {}, move.alias), ` ${done[move.action]} `, move.action === "demote" ? `version ${move.from_version}` : `version ${move.to_version}${move.from_version ? ` (before: ${move.from_version})` : ""}`),
      move.reason && h("span", { class: "muted" }, move.reason),
      move.by && h("small", { class: "muted mono" }, move.by),
    ),
  );
  fill(the("history"), items.length ? items : h("li", { class: "muted" }, "No alias has pointed at a version yet. Promote one to use it."));
}

/** The metric that is shown, of a version, as ` (test accuracy 0.75)`. */
function figure(version) {
  const value = versions().find((each) => each.version === version)?.metrics[metric] ?? null;
  return value === null ? "" : ` (${words(metric)} ${number(value)})`;
}

async function promote(version) {
  const used = model.aliases[PRODUCTION] ?? 0;
  const now = used ? `Version ${used} is in production now${figure(used)}.` : "No version is in production now.";
  const retrain = versions().find((each) => each.version === version)?.retrain;
  const against = retrain?.decision === "held_back" ? retrain.message : null;
  const question = `Promote version ${version} of ${name} to production${figure(version)}? ${now}`;
  const reason = await reasoned(question, { against, yes: "Promote", most: MOST_REASON });
  if (reason === null) return;
  await change(`${path}/aliases/${PRODUCTION}`, "PUT", { version, expected: used, reason: reason || null });
}

async function rollBack() {
  const used = model.aliases[PRODUCTION];
  if (!(await sure(`Put the version back into production that was there before version ${used}?`, "Roll back"))) return;
  await change(`${path}/aliases/${PRODUCTION}/rollback`, "POST", { expected: used });
}

async function change(address, method, json) {
  try {
    await ask(address, { method, json });
    problem(the("problem"), null);
  } catch (error) {
    problem(the("problem"), error);
  }
  for (const each of looks) each.again();
}

function missing(error) {
  the("model").hidden = true;
  the("missing").hidden = false;
  say(the("missing-why"), error.message);
}

the("metric-name").addEventListener("change", () => {
  metric = the("metric-name").value;
  draw();
});
the("more").querySelector("button").addEventListener("click", async () => {
  const page = await get(`${path}/versions?limit=${PAGE}&after=${versions().at(-1).version}`);
  older.push(...page.data);
  more = page.has_more;
  draw();
});
may(Scope.SUBMIT).then((found) => {
  allowed = found;
  draw();
});
const looks = [
  live(path, (found) => { model = found; draw(); }, { every: 5, fail: missing }),
  live(`${path}/versions?limit=${PAGE}`, (page) => { newest = page.data; if (!older.length) more = page.has_more; draw(); }, { every: 5 }),
  live(`${path}/history?limit=100`, drawHistory, { every: 5 }),
];
