// The list of jobs. Filters live in the address; the newest jobs are asked for again and again, older ones on demand.

import { get, Problem } from "./api.js";
import { fill, h, say, the } from "./dom.js";
import { moment, NONE } from "./format.js";
import { live, paced, stream } from "./live.js";
import { namesWith, NEWEST, suggestNames } from "./names.js";
import { sparkline } from "./sparkline.js";
import { judged, reached, spreadOut, state, time } from "./state.js";

const FILTERS = ["status", "name", "tag", "queue", "kind", "trials"];
const PAGE = 50;
const MORE = 100;
const PART = 25; // rows that are made and laid out together
const table = document.querySelector("#list table");
const rows = new Map();
const selected = new Set();
let older = false;
let turn = 0;
let streams = false;
const moved = [];
let oldest = null;
let similar = null; // the address for which similar names were looked for

function filters() {
  const given = new URLSearchParams(location.search);
  return Object.fromEntries(FILTERS.filter((name) => given.get(name)).map((name) => [name, given.get(name)]));
}

function address(more = {}) {
  return `/v1/jobs?${new URLSearchParams({ limit: PAGE, ...filters(), ...more })}`;
}

/** A job's row: its cells are made once, and what is in them is replaced when it changes. */
function made(job) {
  const cells = Object.fromEntries(
    ["is", "what", "curve", "progress", "metric", "left", "made"].map((name) => [name, h("td", { role: "cell", class: name })]),
  );
  const box = h("input", {
    type: "checkbox",
    "aria-label": `Select ${job.name ?? job.id} to compare`,
    ".checked": selected.has(job.id),
    onchange: () => select(job.id, box.checked),
  });
  const row = h("tr", { role: "row", "data-job": job.id }, h("td", { role: "cell", class: "pick" }, box), Object.values(cells));
  return { row, cells, text: "", epoch: null };
}

function draw(job) {
  let shown = rows.get(job.id);
  if (!shown) rows.set(job.id, (shown = made(job)));
  const text = JSON.stringify(job);
  if (text === shown.text) return shown.row;
  shown.text = text;
  const { cells } = shown;
  shown.row.toggleAttribute("data-changes", !job.terminal);
  fill(cells.is, state(job));
  fill(cells.what, h("a", { class: "name", href: `/jobs/${job.id}` }, job.name ?? job.id), under(job));
  fill(cells.progress, h("progress", { class: job.status, max: 1, value: job.progress.fraction, "aria-label": "Progress" }), h("small", {}, reached(job)));
  const best = judged(job);
  fill(cells.metric, best ? [spreadOut(best.value, best.spread), h("small", {}, best.name)] : NONE);
  fill(cells.left, time(job));
  fill(cells.made, moment(job.created_at));
  return shown.row;
}

function under(job) {
  const tags = Object.entries(job.tags).map(([key, value]) => {
    const tag = `${key}:${value}`;
    const to = `/jobs?${new URLSearchParams({ ...filters(), tag })}`;
    return h("a", { class: "tag", href: to, title: tag, onclick: (event) => follow(event, to) }, tag);
  });
  const trial = job.trial === null ? null : `trial ${job.trial}`;
  const about = [job.kind === "predict" ? "predicts" : null, trial, job.dataset?.name].filter(Boolean).join(" · ");
  return h("div", { class: "under" }, about, ...tags);
}

/** Asks for the curves of those jobs of the list that have got further since they were drawn. */
async function drawCurves(jobs) {
  const behind = jobs.filter((job) => job.progress.epoch > 0 && rows.get(job.id)?.epoch !== job.progress.epoch);
  if (!behind.length) return;
  for (const job of behind) rows.get(job.id).epoch = job.progress.epoch;
  try {
    const found = await get(`/v1/curves?jobs=${behind.map((job) => job.id).join(",")}`);
    for (const curve of found.data) {
      const shown = rows.get(curve.job_id);
      if (shown) fill(shown.cells.curve, sparkline(curve));
    }
  } catch {
    for (const job of behind) if (rows.has(job.id)) rows.get(job.id).epoch = null; // with the next look
  }
}

/** The first page as it is now: new jobs come in front, and those that are gone go. */
function first(page) {
  the("problem").hidden = true;
  const body = table.tBodies[0] ?? table.appendChild(h("tbody", { role: "rowgroup" }));
  const ids = new Set(page.data.map((job) => job.id));
  const next = page.data.map(draw);
  // What has left the first page is still listed if older pages are shown; it moved down, or was deleted.
  const rest = older ? [...body.rows].filter((row) => !next.includes(row) && row.dataset.job < (page.data.at(-1)?.id ?? "")) : [];
  const wanted = [...next, ...rest];
  if (wanted.length !== body.rows.length || wanted.some((row, index) => body.rows[index] !== row)) body.replaceChildren(...wanted);
  for (const [id, { row }] of rows) if (!row.isConnected && !ids.has(id)) rows.delete(id);
  if (!older) {
    oldest = page.data.at(-1)?.id ?? null;
    the("more").hidden = !page.has_more;
  }
  const none = page.data.length === 0;
  const filtered = Object.keys(filters()).length > 0;
  the("list").hidden = none;
  the("empty").hidden = !none || filtered;
  the("nothing").hidden = !none || !filtered;
  if (none && filtered) drawSimilar().catch(() => (similar = null));
  drawCurves(page.data);
}

/** Where no job has the name of the filter, the names that contain it. */
async function drawSimilar() {
  const asked = address();
  if (similar === asked) return;
  similar = asked;
  fill(the("similar"));
  const given = filters();
  const found = given.name ? await namesWith(given.name) : [];
  const names = found.filter((name) => name !== given.name);
  if (asked !== address() || !given.name) return;
  const link = (name) => {
    const to = `/jobs?${new URLSearchParams({ ...given, name })}`;
    return h("a", { class: "tag", href: to, onclick: (event) => follow(event, to) }, name);
  };
  const told = names.length ? [`Of the newest ${NEWEST} jobs that are no trials, these names contain “${given.name}”: `, names.map(link)] : found.length ? [] : `None of the newest ${NEWEST} jobs that are no trials has “${given.name}” in its name. An older job needs its whole name.`;
  fill(the("similar"), told);
}

/** Adds older jobs: some in each frame, so that the page stays quick. */
async function more() {
  const button = the("more").querySelector("button");
  const asked = address();
  button.disabled = true;
  try {
    const page = await get(address({ limit: MORE, after: oldest }));
    for (let index = 0; index < page.data.length && asked === address(); index += PART) {
      const jobs = page.data.slice(index, index + PART);
      older = true;
      table.append(h("tbody", { role: "rowgroup", "data-after": oldest }, jobs.map(draw)));
      oldest = jobs.at(-1).id;
      drawCurves(jobs);
      await new Promise(requestAnimationFrame);
    }
    if (asked === address()) the("more").hidden = !page.has_more;
  } catch (error) {
    problem(error);
  } finally {
    button.disabled = false;
  }
}

/** Asks once more for some older jobs, of which some may still change; for others each time. */
async function refresh() {
  const bodies = [...table.tBodies].slice(1).filter((body) => body.querySelector("[data-changes]"));
  if (!bodies.length) return;
  const body = bodies[(turn += 1) % bodies.length];
  const page = await get(address({ limit: PART, after: body.dataset.after }));
  if (!body.isConnected) return;
  body.replaceChildren(...page.data.map(draw));
  drawCurves(page.data);
}

function problem(error) {
  the("problem").hidden = false;
  say(the("problem"), [error.message, ...(error.errors ?? []).map((each) => each.detail)].join(" "));
}

function select(id, on) {
  if (on) selected.add(id);
  else selected.delete(id);
  const link = the("compare");
  link.hidden = selected.size < 2;
  say(link, `Compare ${selected.size} jobs`);
  link.href = `/compare?jobs=${[...selected].join(",")}`;
}

/** Shows the filters of the address, and no rows yet. */
function restart() {
  similar = null;
  rows.clear();
  older = false;
  for (const body of [...table.tBodies]) body.remove();
  const given = filters();
  for (const name of FILTERS) the(name).value = given[name] ?? "";
  the("clear").hidden = Object.keys(given).length === 0;
}

function follow(event, to) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, "", to);
  restart();
  load();
}

function changed() {
  const given = new FormData(the("filters"));
  const wanted = FILTERS.map((name) => [name, String(given.get(name)).trim()]).filter(([, value]) => value);
  const to = wanted.length ? `/jobs?${new URLSearchParams(wanted)}` : "/jobs";
  if (to !== location.pathname + location.search) {
    history.pushState(null, "", to);
    restart();
    load();
  }
}

/** Reads the newest jobs: once if a stream says what changes, else again and again. */
function load() {
  if (streams) reload();
  else look.again();
}

const reload = paced(async () => {
  const asked = address();
  try {
    const page = await get(asked);
    if (asked === address()) first(page);
  } catch (error) {
    if (error instanceof Problem) problem(error);
  }
}, 1000);

const drawNewCurves = paced(() => {
  const jobs = new Map(moved.splice(0).map((job) => [job.id, job]));
  drawCurves([...jobs.values()].filter((job) => rows.has(job.id)).slice(0, MORE));
}, 5000); // a curve this small changes little from one epoch to the next

restart();
const look = live(() => address(), first, { every: 2, fail: problem });
stream(
  () => "/v1/stream",
  {
    ready: reload,
    state: reload, // other jobs have another place in the queue now, and filters may choose others
    job(told) {
      if (!rows.has(told.id)) return;
      draw(told);
      moved.push(told);
      drawNewCurves();
    },
  },
  {
    holds(whether) {
      streams = whether;
      look.hold(whether);
    },
  },
);
suggestNames(the("name"));
the("filters").addEventListener("submit", (event) => event.preventDefault());
the("filters").addEventListener("change", changed);
the("clear").addEventListener("click", (event) => follow(event, "/jobs"));
the("more").querySelector("button").addEventListener("click", more);
setInterval(() => {
  if (!document.hidden && !streams) refresh().catch(() => {});
}, 5000);
setInterval(() => {
  if (!document.hidden && streams) reload(); // no stream says that a job was deleted
}, 30000);
addEventListener("popstate", () => {
  restart();
  load();
});
