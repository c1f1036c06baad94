// A search: the best so far, which fields matter, its trials in a table that sorts, and as lines over their values.

import { Chart } from "./chart.js";
import { fill, h, say, the } from "./dom.js";
import { between, duration, moment, NONE, number, words } from "./format.js";
import { live } from "./live.js";
import { parallel } from "./parallel.js";
import { chip, counted, drawActions, missing, shown, tile } from "./resource.js";
import { sortable } from "./tables.js";

const id = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/searches/${encodeURIComponent(id)}`;
const FEW_TRIALS = 30; // with three fields that do nothing, one search in ten shows 16 % for one of them; with 12 trials 41 %
const BEST = 10;
const chart = new Chart(the("best"), { title: "Best so far" });
const sort = { key: "value", down: false };
let search = null;

function draw(found) {
  const first = search === null;
  search = found;
  if (first) sort.down = search.settings.higher_is_better;
  document.title = `${search.name ?? search.id} · Loopline`;
  the("search").hidden = false;
  say(the("title"), search.name ?? search.id);
  fill(the("state"), chip(search.status));
  const data = Object.values(search.settings.datasets);
  fill(the("facts"), h("code", {}, search.id), h("span", {}, `${search.settings.algorithm}, ${number(search.parallel)} at once`), data.map((name) => h("a", { href: `/datasets/${encodeURIComponent(name)}` }, name)), h("span", {}, "submitted ", moment(search.created_at, { seconds: true })));
  fill(
    the("alarms"),
    search.message && h("p", { class: `notice ${search.status === "failed" ? "bad" : ""}` }, search.message),
    search.final?.message && h("p", { class: "notice bad" }, search.final.message),
    search.final?.baseline?.message && h("p", { class: `notice ${search.final.baseline.is_beaten === false ? "warn" : ""}` }, search.final.baseline.message),
    search.advice.map((advice) => h("p", { class: "notice" }, advice)),
  );
  drawTiles();
  const going = !search.terminal && !search.cancel_requested;
  drawActions(
    [
      { title: "Pause", path: search.links.pause, show: going && search.status === "running" },
      { title: "Resume", path: search.links.resume, show: going && search.status === "paused", main: true },
      { title: "Cancel", path: search.links.cancel, show: going, danger: true, question: "Cancel this search? Its trials that run are stopped.", yes: "Cancel the search" },
    ],
    look.again,
    [comparison()],
  );
  drawBest();
  drawImportance();
  drawTrials();
  drawParallel();
}

/** A link to compare the best trials. */
function comparison() {
  const ids = ranked().slice(0, BEST).map((trial) => trial.job_id);
  return ids.length > 1 && h("a", { class: "button", href: `/compare?jobs=${ids.join(",")}` }, `Compare the best ${ids.length}`);
}

function ranked() {
  const sign = search.settings.higher_is_better ? -1 : 1;
  return search.trials.filter((trial) => trial.value !== null).sort((a, b) => sign * (a.value - b.value));
}

/** How long it has taken, and what its budget of minutes leaves. */
function timeTile() {
  const took = Math.round(between(search.created_at, search.ended_at));
  if (search.settings.minutes === null) return tile(search.terminal ? "Took" : "Time", duration(took));
  const budget = 60 * search.settings.minutes;
  const left = took < budget ? `${duration(Math.round(budget) - took)} left` : "used up: what has begun is completed";
  return tile(search.terminal ? "Took" : "Time used", duration(took), `of ${duration(budget)}${search.terminal ? "" : `, ${left}`}`);
}

function drawTiles() {
  const { best, final } = search;
  const tested = final && (Object.entries(final.metrics).find(([name, value]) => name.startsWith("test_") && !name.endsWith("_loss") && value !== null) ?? Object.entries(final.metrics).find(([name]) => name.startsWith("test_")));
  fill(
    the("tiles"),
    tile("Trials", search.settings.minutes === null ? `${number(search.made)} of ${number(search.wanted)}` : number(search.made), counted(search.counts)),
    timeTile(),
    tile(`Best ${words(search.settings.metric)}`, best ? number(best.value) : NONE, best && h("a", { href: `/jobs/${best.job_id}` }, `trial ${best.trial}`)),
    final && tile(tested ? `Final model, ${words(tested[0])}` : "Final model", tested ? number(tested[1]) : final.status, h("a", { href: `/jobs/${final.job_id}` }, "its job")),
    final?.status === "succeeded" && tile("Ask it", h("a", { href: `/try?job=${final.job_id}` }, "Try it")),
  );
}

function drawBest() {
  const done = search.trials.filter((trial) => trial.value !== null);
  the("best").closest("section").hidden = done.length === 0;
  if (!done.length) return;
  const so = search.trials.filter((trial) => trial.best_so_far !== null);
  const lines = [
    { label: "best so far", colour: "series-1", width: 2, x: so.map((trial) => trial.trial), y: so.map((trial) => trial.best_so_far) },
    { label: "each trial", colour: "series-7", dots: true, size: 6, told: false, x: done.map((trial) => trial.trial), y: done.map((trial) => trial.value) },
  ];
  chart.show({ lines, x: "trial", whole: true });
}

function drawImportance() {
  const found = search.importance;
  fill(
    the("importance"),
    found.length
      ? h("div", { class: "bars" }, found.flatMap(({ path: field, share }) => [h("span", {}, field), h("progress", { max: 1, value: share, "aria-label": `Share of ${field}` }), h("span", { class: "number" }, `${Math.round(share * 100)} %`)]))
      : h("p", { class: "muted" }, "It is known for fields that 10 trials or more have varied."),
    found.length > 0 && h("p", { class: "muted small" }, doubt(found)),
  );
}

function doubt(found) {
  const most = Math.max(...found.map((each) => each.trials));
  const few = most < FEW_TRIALS ? ` ${most} trials are few: chance alone can give tens of percent.` : "";
  return `The share of the differences between ${most} trials that the field alone explains. Shares overlap: they need not add up to 100 %.${few}`;
}

function fields() {
  return Object.keys(search.settings.space);
}

function drawTrials() {
  const all = the("every").checked;
  const rows = all ? search.trials : ranked().slice(0, BEST);
  say(the("trials-title"), all ? "Every trial" : "The best trials");
  if (!rows.length) {
    fill(the("trials"), h("p", { class: "muted" }, "No trial has ended yet."));
    return;
  }
  const columns = [
    { key: "trial", title: "Trial", number: true, of: (trial) => trial.trial, write: (trial) => (trial.job_id ? h("a", { href: `/jobs/${trial.job_id}` }, String(trial.trial)) : String(trial.trial)) },
    { key: "value", title: words(search.settings.metric), number: true, of: (trial) => trial.value, write: (trial) => number(trial.value) },
    ...fields().map((field) => ({ key: `field ${field}`, title: field, number: true, of: (trial) => trial.choices[field] ?? null, write: (trial) => choice(trial.choices[field]) })),
    { key: "epoch", title: "Epochs", number: true, of: (trial) => trial.epoch, write: (trial) => number(trial.epoch) },
    { key: "seconds", title: "Time", number: true, of: (trial) => trial.seconds, write: (trial) => duration(trial.seconds) },
    { key: "state", title: "State", of: (trial) => trial.status, write: (trial) => chip(trial.status, trial.message) },
  ];
  sortable(the("trials"), columns, rows, sort, "Trials");
}

function choice(value) {
  if (value === undefined) return NONE;
  return typeof value === "number" ? number(value) : shown(value);
}

function drawParallel() {
  const done = ranked();
  the("parallel").closest("section").hidden = done.length < 2;
  if (done.length < 2) return;
  const axes = [
    ...fields().map((field) => ({ title: field, log: search.settings.space[field].log === true, of: (trial) => trial.choices[field] })),
    { title: words(search.settings.metric), of: (trial) => trial.value },
  ];
  parallel(the("parallel"), axes, done, { best: Math.max(1, Math.round(done.length / 10)), title: (trial) => `trial ${trial.trial}: ${number(trial.value)}` });
}

the("every").addEventListener("change", drawTrials);
new ResizeObserver(() => search && drawParallel()).observe(the("parallel"));
setInterval(() => search && !search.terminal && !document.hidden && drawTiles(), 1000);
const look = live(path, draw, { every: 3, until: (found) => found.terminal, fail: missing("search") });
