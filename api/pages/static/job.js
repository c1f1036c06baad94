// One job: its curves, log, events, spec, checkpoints and model, and what may be done with it.

import { ask, get, Problem } from "./api.js";
import { Chart, choices, smoothed } from "./chart.js";
import { Curves } from "./curves.js";
import { fill, h, say, the } from "./dom.js";
import { folded } from "./folded.js";
import { between, bytes, duration, moment, NONE, number, percent, words } from "./format.js";
import { live, paced, stream } from "./live.js";
import { prose } from "./prose.js";
import { may, Scope } from "./session.js";
import { judged, named, reached, state, sure } from "./state.js";
import { table } from "./tables.js";
import { inWords } from "./wording.js";

const id = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/jobs/${encodeURIComponent(id)}`;
const PARTS = ["curves", "log", "spec", "model"];
const LEAST_EPOCHS = 10; // without a better one, before the page says so
const TAIL = 12;
const MOST_LINES = 2000;
const AXES = { epoch: "epoch", step: "step", time: "seconds of training" };

const curves = new Curves(id);
const settings = { by: "epoch", log: false, gradientLog: true, smoothing: 0.6, ...kept() };
const charts = Object.fromEntries(
  [["loss", "Loss"], ["metric", "Metric"], ["gradient", "Gradient norm"], ["rate", "Learning rate"], ["speed", "Samples per second"]].map(
    ([name, title]) => [name, new Chart(the(name), { title, sync: "job", zoom })],
  ),
);
let job = null;
let view = null; // what is zoomed in on, in steps, with the steps of this part
let metric = null;
let fold = null; // null for all of them
let part = null;
let registered = null; // the version that was made of its result here
let heard = { line: 0, event: 0 };
let resumed = null; // where the newest attempt went on, or that it began again

function kept() {
  try {
    return JSON.parse(localStorage.getItem("loopline.curves") ?? "{}");
  } catch {
    return {};
  }
}

function keep() {
  try {
    localStorage.setItem("loopline.curves", JSON.stringify(settings));
  } catch {
    // it holds for this page then
  }
}

// The head

function drawHead() {
  document.title = `${job.name ?? job.id} · Loopline`;
  say(the("title"), job.name ?? job.id);
  fill(the("state"), state(job));
  const tags = Object.entries(job.tags).map(([key, value]) => `${key}:${value}`);
  fill(
    the("facts"),
    h("code", {}, job.id),
    job.dataset && h("span", {}, "data set ", h("a", { href: `/datasets/${job.dataset.id}` }, job.dataset.name)),
    h("span", {}, `queue ${job.queue.name}`),
    h("span", {}, "submitted ", moment(job.created_at, { seconds: true })),
    job.trial !== null && h("span", {}, `trial ${job.trial} of `, h("code", {}, job.search_id)),
    job.batch_id && h("span", {}, "batch ", h("code", {}, job.batch_id)),
    job.attempt > 1 && h("span", {}, `attempt ${job.attempt}`),
    tags.map((tag) => h("a", { class: "tag", href: `/jobs?${new URLSearchParams({ tag })}` }, tag)),
  );
  fill(the("alarms"), alarms());
  fill(the("tiles"), tiles());
  drawActions();
}

/** What went wrong or may go wrong, and what to do. */
function alarms() {
  const found = [];
  const version = versionMade();
  if (version) found.push(version);
  const log = h("a", { href: "#log", onclick: () => choosePart("log") }, "its log and events");
  if (job.status === "failed") {
    found.push(h("div", { class: "notice bad", role: "alert" }, h("p", {}, h("b", {}, "The job failed. "), said() ?? job.reason ?? ""), h("p", {}, "Look at ", log, ", or ", again("run it again with changes"), ".")));
  } else if (job.status === "cancelled" || job.status === "paused" || (job.message && !job.terminal)) {
    found.push(h("div", { class: "notice" }, said() ?? `The job is ${job.status}.`));
  }
  if (resumed && job.status !== "queued") found.push(h("div", { class: "notice" }, resumed));
  if (job.silent_since) found.push(h("div", { class: "notice warn" }, "Its worker has sent no heartbeat since ", moment(job.silent_since, { seconds: true }), ". If none arrives, the job is queued again by itself."));
  const since = epochsSinceBest();
  if (since !== null) {
    const sooner = job.spec.training?.early_stopping ? "" : " Early stopping would end such a run (training.early_stopping).";
    found.push(h("div", { class: "notice" }, `The ${words(job.best.metric)} has not improved for ${since} epochs. The result keeps the weights of the best epoch, so far ${job.best.epoch}.${sooner}`));
  }
  if (job.waits_until && job.status === "queued") found.push(h("div", { class: "notice" }, "It starts again at ", moment(job.waits_until, { seconds: true }), " at the earliest."));
  for (const warning of job.warnings) found.push(h("div", { class: "notice warn" }, inWords(warning)));
  if (job.result?.baseline?.message) found.push(h("div", { class: "notice warn" }, job.result.baseline.message));
  for (const advice of job.result?.advice ?? []) found.push(h("div", { class: "notice" }, inWords(advice)));
  return found;
}

/** The message of the job. Of a crash only the first sentence: the rest is for whoever looks for its cause. */
function said() {
  const message = inWords(job.message);
  return message && job.reason === "trainer_crashed" ? folded(message) : message;
}

/** For how many epochs a running job has not improved on validation, once that is as long as it improved; else null. */
function epochsSinceBest() {
  const { epoch, folds } = job.progress;
  if (job.status !== "running" || folds !== null || !job.best?.metric.startsWith("validation_")) return null;
  const since = epoch - job.best.epoch;
  return since >= Math.max(LEAST_EPOCHS, job.best.epoch) ? since : null;
}

/** Which version of a model the result is, and what its retraining came to. */
function versionMade() {
  const link = (model) => h("a", { href: `/models/${encodeURIComponent(model)}` }, model);
  if (registered) return h("div", { class: "notice good", role: "status" }, `The job is version ${registered.version} of the model `, link(registered.model), ".");
  const retrain = job.result?.retrain;
  if (!retrain) return null;
  const good = ["promoted", "registered"].includes(retrain.decision);
  const where = retrain.version === null ? null : [` It is version ${retrain.version} of the model `, link(retrain.model), "."];
  return h("div", { class: `notice ${good ? "good" : "warn"}` }, retrain.message, where);
}

function tile(title, value, more = null) {
  return h("div", {}, h("dt", {}, title), h("dd", {}, value, more && h("small", {}, more)));
}

function tiles() {
  const { progress } = job;
  const bar = h("progress", { class: job.status, max: 1, value: progress.fraction, "aria-label": "Progress" });
  const best = judged(job);
  const metrics = Object.entries(job.result?.metrics ?? {}).filter(([name]) => name !== best?.metric && !name.endsWith("_loss"));
  const base = job.result?.baseline?.metrics ?? {};
  const { mean, std } = job.result ?? {};
  const means = Object.entries(mean ?? {}).filter(([name]) => name !== best?.metric && !name.endsWith("_loss"));
  const tested = ([name]) => name.startsWith("test_");
  const shown = [...metrics.filter(tested), ...(mean ? [] : metrics.filter((each) => !tested(each)))];
  const isBestToo = best?.isTest && job.best && best.name !== words(job.best.metric);
  return [
    h("div", { class: "wide-tile" }, h("dt", {}, "Progress"), h("dd", {}, job.terminal ? reached(job) || NONE : percent(progress.fraction), bar, h("small", {}, job.terminal ? "" : where()))),
    job.terminal
      ? tile("Took", duration(between(job.started_at, job.finished_at)), job.finished_at && ["ended ", moment(job.finished_at, { seconds: true })])
      : tile("Time left", progress.eta_seconds === null ? NONE : duration(progress.eta_seconds), job.started_at && `running for ${duration(Math.round(between(job.started_at)))}`),
    best && tile(best.isTest || best.isMean ? best.name : `best ${best.name}`, number(best.value), aside(best, base)),
    isBestToo && tile(`best ${words(job.best.metric)}`, number(job.best.value), `epoch ${job.best.epoch}`),
    means.slice(0, 2).map(([name, value]) => tile(`mean ${words(name)}`, number(value), spread(std?.[name]))),
    shown.slice(0, isBestToo ? 2 : 3).map(([name, value]) => tile(words(name), number(value), baseline(base, words(name)))),
    job.kind === "predict" && progress.sequences_per_second !== null && tile("Speed", `${number(progress.sequences_per_second)} sequences/s`),
  ];
}

/** What stands below the number by which the job is judged. */
function aside(best, base) {
  if (best.isMean) return spread(best.spread);
  const told = baseline(base, best.name);
  return best.isTest ? told && `${told}: ${job.result.baseline.answer}` : job.progress.folds === null ? `epoch ${job.best.epoch}` : null;
}

function spread(std) {
  const folds = job.result.folds?.length ?? job.progress.folds;
  return std === null || std === undefined ? `over ${folds} folds` : `± ${number(std)} over ${folds} folds`;
}

function where() {
  const { progress } = job;
  const fold = progress.folds === null ? "" : progress.fold > progress.folds ? ", the final model" : `, fold ${progress.fold} of ${progress.folds}`;
  if (job.kind === "predict" || progress.epochs === null || (job.status === "queued" && !progress.epoch)) return reached(job);
  return `epoch ${number(progress.epoch)} of ${number(progress.epochs)}${fold}; step ${number(progress.step)}`;
}

function baseline(metrics, title) {
  const name = Object.keys(metrics).find((each) => words(each) === title);
  return name ? `baseline ${number(metrics[name])}` : null;
}

function again(text) {
  return h("a", { href: `/submit?from=${job.id}`, class: text ? null : "button" }, text ?? "Run again with changes");
}

function isVersion() {
  return registered !== null || (job.result?.retrain?.version ?? null) !== null;
}

async function drawActions() {
  const allowed = await may(Scope.SUBMIT);
  const does = (verb, title, options = {}) => h("button", { type: "button", class: options.class, onclick: () => act(verb, options) }, title);
  fill(
    the("actions"),
    job.links.model && h("a", { class: "button main", href: job.links.model, download: true }, "Download model"),
    job.links.model && job.terminal && h("a", { class: "button", href: `/try?job=${job.id}` }, "Try it"),
    allowed && job.links.model && job.status === "succeeded" && !isVersion() && h("button", { type: "button", onclick: register }, "Register as a model"),
    job.links.answers && h("a", { class: "button main", href: job.links.answers, download: true }, "Download answers"),
    allowed && !job.terminal && job.status !== "paused" && !job.pause_requested && does("pause", "Pause"),
    allowed && !job.terminal && (job.status === "paused" || job.pause_requested) && does("resume", "Resume", { class: "main" }),
    allowed && job.kind === "train" && again(),
    allowed && !job.terminal && !job.cancel_requested && does("cancel", "Cancel", { class: "danger", question: "Cancel this job? It cannot be resumed.", yes: "Cancel the job" }),
    allowed && job.terminal && h("button", { type: "button", class: "danger", onclick: remove }, "Delete"),
  );
}

async function act(verb, { question, yes }) {
  if (question && !(await sure(question, yes))) return;
  try {
    const answer = await ask(job.links[verb], { method: "POST" });
    show(answer.body);
  } catch (error) {
    refused(error);
  }
  look.again();
}

const MODEL_NAME = /^[a-z0-9][a-z0-9._-]{0,99}$/;

async function register() {
  const likely = [job.name, job.dataset?.name.split("@")[0]].find((name) => name && MODEL_NAME.test(name)) ?? "";
  const question = "Under which name? If there is a model with this name, the job becomes its next version.";
  const allowed = "1 to 100 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit";
  const name = await named(question, { label: "Name of the model", value: likely, yes: "Register", pattern: "[a-z0-9][a-z0-9._\\-]*", allowed, most: 100 });
  if (name === null) return;
  try {
    registered = (await ask(`/v1/models/${encodeURIComponent(name)}/versions`, { method: "POST", json: { job: id } })).body;
    fill(the("alarms"), alarms());
    drawActions();
  } catch (error) {
    refused(error);
  }
}

async function remove() {
  if (!(await sure("Delete this job with its model, checkpoints, events and log?", "Delete the job"))) return;
  try {
    await ask(path, { method: "DELETE" });
    location.assign("/jobs");
  } catch (error) {
    refused(error);
  }
}

function refused(error) {
  fill(the("alarms"), h("div", { class: "notice bad", role: "alert" }, error.message), alarms());
}

// Curves

function zoom(ends) {
  if (ends === null) {
    view = null;
    drawCurves();
    return;
  }
  const steps = ends.map((place) => curves.toStep(place, settings.by));
  const mine = (view = { steps, part: null });
  drawCurves();
  const [first, last] = [Math.max(1, Math.floor(steps[0])), Math.max(1, Math.ceil(steps[1]))];
  curves.part(first, last).then((found) => {
    if (view !== mine) return;
    view.part = found;
    drawCurves();
  }, passing);
}

function drawCurves() {
  const by = settings.by;
  const shown = Curves.ofFold(view?.part ?? curves.steps, fold);
  const x = shown.step.map((step) => curves.ofStep(step, by));
  const span = view && view.steps.map((step) => curves.ofStep(step, by));
  const common = { x: AXES[by], view: span };
  the("whole").hidden = view === null;
  the("zoom-help").hidden = view !== null;
  const none = !curves.epochs.length && !curves.steps.step.length;
  the("no-curves").hidden = !none || job.kind === "predict";
  document.querySelector(".charts").hidden = none;
  document.querySelector(".controls").hidden = none;
  if (none || part !== "curves") return;
  toEnd(the("tail"));

  const smooth = settings.smoothing;
  const lines = [];
  if (x.length) {
    if (smooth) lines.push({ label: "each step", colour: "series-1", x, y: shown.loss, faint: true, width: 1, told: false });
    lines.push({ label: smooth ? "training, smoothed" : "training", colour: "series-1", x, y: smoothed(shown.loss, smooth), width: smooth ? 2 : 1.2 });
  } else {
    lines.push({ label: "training", colour: "series-1", ...curves.line("train_loss", by, fold) });
  }
  const validation = curves.line("validation_loss", by, fold);
  if (validation.y.some((value) => value !== null)) lines.push({ label: "validation", colour: "series-2", width: 2, ...validation });
  if (job.best && !job.progress.folds) {
    const at = curves.ofEpoch(job.best.epoch, by);
    const best = curves.epochs.find((record) => record.epoch === job.best.epoch);
    const value = best?.validation_loss ?? best?.train_loss ?? null;
    if (value !== null) lines.push({ label: "best epoch", colour: "good", x: [at], y: [value], dots: true, size: 8, told: false });
  }
  charts.loss.show({ lines, log: settings.log, ...common });

  drawFolds();
  drawMetric(common);
  drawGradient(shown, x, common);
  for (const name of ["rate", "speed"]) the(name).closest(".card").hidden = !curves.epochs.length;
  the("gradient").closest(".card").hidden = !shown.step.length && view === null;
  if (!curves.epochs.length) return;
  charts.rate.show({ lines: [{ label: "learning rate", colour: "series-4", ...curves.line("lr", by, fold) }], ...common });
  charts.speed.show({ lines: [{ label: "samples per second", colour: "series-3", ...curves.line("samples_per_second", by, fold) }], ...common });
}

function drawFolds() {
  const choice = the("fold");
  const { folds } = job.progress;
  the("folds").hidden = !folds;
  if (!folds || choice.options.length) return;
  const names = [["", "all"], ...Array.from({ length: folds }, (_, index) => [index + 1, index + 1]), [folds + 1, "final model"]];
  choice.append(...names.map(([value, text]) => h("option", { value }, text)));
}

function drawMetric(common) {
  const names = [...new Set(curves.fields().filter((name) => /^(train|validation)_/.test(name) && !name.endsWith("_loss")).map((name) => name.replace(/^(train|validation)_/, "")))];
  const choice = the("metric-name");
  if (choice.options.length !== names.length) choice.replaceChildren(...names.map((name) => h("option", { value: name }, words(name))));
  if (!names.includes(metric)) metric = names.find((name) => job.best?.metric.endsWith(name)) ?? names[0] ?? null;
  if (metric) choice.value = metric;
  choice.hidden = names.length < 2;
  the("metric").closest(".card").hidden = metric === null;
  if (metric === null) return;
  say(the("metric-title"), names.length < 2 ? words(metric).replace(/^./, (first) => first.toUpperCase()) : "Metric");
  const lines = [["training", "series-1", `train_${metric}`], ["validation", "series-2", `validation_${metric}`]]
    .map(([label, colour, field]) => ({ label, colour, ...curves.line(field, settings.by, fold) }))
    .filter((line) => line.y.some((value) => value !== null));
  charts.metric.show({ lines, ...common });
}

function drawGradient(shown, x, common) {
  const bound = job.spec.training?.max_grad_norm ?? null;
  const lines = [{ label: "gradient norm", colour: "series-1", x, y: shown.grad_norm, width: 1, faint: settings.smoothing > 0, told: settings.smoothing === 0 }];
  if (settings.smoothing) lines.push({ label: "smoothed", colour: "series-1", x, y: smoothed(shown.grad_norm, settings.smoothing), width: 2 });
  let clipped = "no clipping";
  if (bound !== null && x.length) {
    const over = shown.grad_norm.flatMap((value, index) => (value !== null && value > bound ? [index] : []));
    lines.push({ label: "clipped", colour: "series-2", x: over.map((index) => x[index]), y: over.map((index) => shown.grad_norm[index]), dots: true, told: false });
    lines.push({ label: "bound", colour: "series-6", x: [x[0], x.at(-1)], y: [bound, bound], dash: [6, 4], width: 1.5 });
    const share = curves.epochs.at(-1)?.clipped_fraction;
    clipped = `clipped at ${number(bound)}${share === undefined || share === null ? "" : `; ${percent(share)} of the steps of the last epoch`}`;
  }
  say(the("clipped"), clipped);
  charts.gradient.show({ lines, log: settings.gradientLog, ...common });
}

// Log and events

function line(each) {
  return h("div", { class: `line ${each.level}` }, moment(each.at, { seconds: true }), h("span", {}, each.text));
}

/** New lines at the end, without those that the service has dropped by now; who reads further up is not moved. */
function addLines(element, lines, most) {
  element.append(...lines.slice(-most).map(line));
  while (element.childElementCount > most) element.firstElementChild.remove();
  toEnd(element);
}

function toEnd(element) {
  if (!element.dataset.reads) element.scrollTop = element.scrollHeight;
}

for (const element of [the("lines"), the("tail")]) {
  element.addEventListener("scroll", () => {
    const atEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - 30;
    element.dataset.reads = atEnd ? "" : "further up";
  });
}

function drawLines(page) {
  const fresh = page.data.filter((each) => each.number > heard.line);
  if (!fresh.length) return;
  heard.line = fresh.at(-1).number;
  addLines(the("lines"), fresh, MOST_LINES);
  addLines(the("tail"), fresh, TAIL);
}

/** `told`: what other events say. */
function described(event, told) {
  if (event.type !== "status") return event.message ?? event.type;
  if (event.from_status === null) return "submitted";
  const why = event.message === null || told.has(event.message) || event.message === job?.result?.retrain?.message ? "" : `: ${event.message}`;
  return `${event.from_status} → ${event.to_status}${why}`;
}

function drawEvents(page) {
  const fresh = page.data.filter((each) => each.id > heard.event);
  if (!fresh.length) return;
  heard.event = fresh.at(-1).id;
  const resumption = fresh.findLast((each) => each.type === "resumed");
  if (resumption) {
    resumed = resumption.message;
    if (job) fill(the("alarms"), alarms()); // the events may come before the job
  }
  const told = new Set(page.data.filter((each) => each.type !== "status").map((each) => each.message));
  the("events").prepend(...fresh.toReversed().map((event) => h("li", { class: event.level }, moment(event.at, { seconds: true }), h("span", {}, folded(described(event, told))), event.worker && event.type === "status" && h("small", { class: "muted mono" }, event.worker))));
}

// Spec and model

function drawSpec() {
  say(the("spec-text"), JSON.stringify(job.spec, null, 2));
}

let cardOf = null;

async function drawModel() {
  const file = (name, text) => h("li", {}, h("a", { href: `${path}/model/${name}`, download: true }, name), ` ${text}`);
  const none = job.kind === "predict" ? "A job that predicts has no model." : job.terminal ? "This job has no model." : "The model can be downloaded when the job has ended.";
  fill(
    the("downloads"),
    job.links.model
      ? h(
          "ul",
          { class: "plain" },
          h("li", {}, h("a", { href: job.links.model, download: true }, "everything as a zip"), job.result?.complete === false ? ` the best weights until the job ended early` : ""),
          file("model.safetensors", "weights"),
          file("model.json", "spec and preprocessing"),
          file("history.json", "the numbers of every epoch"),
        )
      : job.links.answers
        ? h("a", { href: job.links.answers, download: true }, job.answers?.file ?? "answers")
        : h("p", { class: "muted" }, none),
  );
  the("checkpoints-card").hidden = !job.links.checkpoints;
  if (job.links.checkpoints) drawCheckpoints((await get(job.links.checkpoints)).data);
  if (job.links.model && cardOf !== job.links.model) {
    cardOf = job.links.model;
    try {
      await prose(the("card"), `/jobs/${encodeURIComponent(id)}/card`);
      the("card").hidden = false;
    } catch (error) {
      if (!(error instanceof Problem)) throw error; // an older model has no card
    }
  }
}

function drawCheckpoints(found) {
  if (!found.length) {
    fill(the("checkpoints"), h("p", { class: "muted" }, "None is kept now. They are made every 30 seconds, and at the end."));
    return;
  }
  const rows = found.toReversed().map((each) => [
    number(each.step),
    number(each.epoch),
    each.best ? "best so far" : "",
    bytes(each.bytes),
    moment(each.created_at, { seconds: true }),
    h("a", { href: each.links.self, download: true }, "download"),
  ]);
  fill(the("checkpoints"), table([["Step", "number"], ["Epoch", "number"], [""], ["Size", "number"], ["Made"], [""]], rows));
}

// Parts

function choosePart(name, { focus = false } = {}) {
  part = PARTS.includes(name) ? name : "curves";
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const on = tab.dataset.part === part;
    tab.setAttribute("aria-selected", String(on));
    tab.tabIndex = on ? 0 : -1;
    if (on && focus) tab.focus();
    the(tab.dataset.part).hidden = !on;
  }
  if (location.hash.slice(1) !== part) history.replaceState(null, "", part === "curves" ? location.pathname : `#${part}`);
  if (!job) return;
  if (part === "curves") {
    drawCurves();
  }
  if (part === "model") drawModel().catch(passing);
  if (part === "log") toEnd(the("lines"));
}

function passing(error) {
  if (error instanceof Problem && error.status < 500) throw error; // what cannot be reached now is asked for again
}

function show(document_) {
  const first = job === null;
  const moved = first || document_.status !== job.status || document_.links.model !== job.links.model;
  job = document_;
  the("job").hidden = false;
  drawHead();
  if (first) {
    drawSpec();
    choosePart(location.hash.slice(1));
  } else if (part === "model") {
    drawModel().catch(passing);
  }
  if (moved) {
    lines.again();
    events.again();
  }
  if (job.kind === "predict") {
    the("tab-curves").hidden = true;
    say(the("tab-model"), "Answers");
    if (part === "curves") choosePart("log");
    if (first && !job.terminal) follow();
    return;
  }
  curves.update(job).then((news) => {
    if (news || first) drawCurves();
    if (first && !job.terminal) follow();
  }, passing);
}

/** From now on the service says what happens; where it does not hold the stream, the page asks. */
function follow() {
  const from = () => ({ event: heard.event, line: heard.line, epoch: curves.epochs.at(-1)?.epoch ?? 0, step: curves.steps.step.at(-1) ?? 0 });
  const head = paced(drawHead);
  const drawing = paced(drawCurves);
  const polls = [look, lines, events];
  stream(
    () => `${path}/stream?${new URLSearchParams(from())}`,
    {
      job(told) {
        job = { ...told, spec: job.spec };
        curves.measure(job);
        head();
        if (part === "model") drawModel().catch(passing);
      },
      event(told) {
        if (["resumed", "rolled_back"].includes(told.type) && job.kind === "train") curves.dropBeyond(told.data.step, told.data.epoch);
        drawEvents({ data: [told] });
      },
      line: (told) => drawLines({ data: [told] }),
      steps(told) {
        curves.addSteps(told);
        drawing();
      },
      epoch(told) {
        curves.addEpoch(told);
        drawing();
      },
      end: () => {},
    },
    { holds: (whether) => polls.forEach((poll) => poll.hold(whether)) },
  );
}

function missing(error) {
  the("job").hidden = true;
  the("missing").hidden = false;
  say(the("missing-why"), error.message);
}

fill(the("by"), choices("Horizontal axis", [["epoch", "Epochs"], ["step", "Steps"], ["time", "Time"]], settings.by, (by) => { settings.by = by; keep(); drawCurves(); }));
for (const [where, name, label] of [["loss-scale", "log", "Scale of the loss"], ["gradient-scale", "gradientLog", "Scale of the gradient norm"]]) {
  fill(the(where), choices(label, [[false, "Linear"], [true, "Logarithmic"]], settings[name], (log) => { settings[name] = log; keep(); drawCurves(); }));
}
the("smoothing").value = settings.smoothing;
the("smoothing").addEventListener("input", () => { settings.smoothing = Number(the("smoothing").value); keep(); drawCurves(); });
the("whole").addEventListener("click", () => zoom(null));
the("metric-name").addEventListener("change", () => { metric = the("metric-name").value; drawCurves(); });
the("fold").addEventListener("change", () => { fold = the("fold").value ? Number(the("fold").value) : null; drawCurves(); });
the("copy-spec").addEventListener("click", () => navigator.clipboard?.writeText(the("spec-text").textContent).then(() => say(the("copy-spec"), "Copied")));
the("log-text").href = `${path}/logs?limit=2000`;
document.querySelector("[role=tablist]").addEventListener("click", (event) => event.target.dataset.part && choosePart(event.target.dataset.part));
document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const shown = PARTS.filter((name) => !the(`tab-${name}`).hidden);
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (move) choosePart(shown.at((shown.indexOf(part) + move) % shown.length), { focus: true });
});
addEventListener("hashchange", () => choosePart(location.hash.slice(1)));

const ended = () => job?.terminal ?? false;
const lines = live(() => `${path}/logs?limit=${MOST_LINES}&after=${heard.line}`, drawLines, { every: 2, until: (page) => ended() && !page.has_more });
const events = live(() => `${path}/events?limit=1000&after=${heard.event}`, drawEvents, { every: 5, until: (page) => ended() && !page.has_more });
const look = live(path, show, { every: 2, until: (found) => found.terminal, fail: missing });
