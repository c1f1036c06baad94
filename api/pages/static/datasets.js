// The data sets, and making one: a file is sent, read without making anything of it, corrected, and then made.

import { get, post } from "./api.js";
import { fill, h, problem, say, the } from "./dom.js";
import { bytes, moment, NONE, number } from "./format.js";
import { list } from "./lists.js";
import { send } from "./sending.js";
import { table } from "./tables.js";
import { COLUMNS, inWords, together } from "./wording.js";

const HEAD_BYTES = 1 << 16;
const LAYOUTS = { "": "as it is inferred", long: "long: a row is a step", wide: "wide: a row is a sequence", files: "files: a file is a sequence", text: "text: a row is a text" };
const FIELDS = [
  ["group", true], // and whether it takes several columns
  ["order", false],
  ["target", true],
  ["features", true],
  ["static", true],
  ["text", false],
  ["known_future", true],
  ["weight", false],
  ["split", false],
];
const FIRST = 3; // fields that are always shown; the others are below "more"
let given = null; // {file, upload, columns, stop, reads, wanted}
let corrected = null; // the data set whose columns are to be corrected

// The list

function line(each) {
  return [
    h("a", { class: "name", href: `/datasets/${each.id}` }, `${each.name}@${each.version}`),
    h("span", { class: `chip ${{ ready: "good", rejected: "bad" }[each.status] ?? ""}` }, each.status === "validating" ? "being checked" : each.status),
    each.samples === null ? NONE : number(each.samples),
    each.features === null ? NONE : number(each.features),
    each.max_length === null ? NONE : each.min_length === each.max_length ? number(each.max_length) : `${number(each.min_length)}–${number(each.max_length)}`,
    predicts(each),
    bytes(each.source_bytes ?? each.bytes),
    moment(each.created_at),
  ];
}

function predicts(each) {
  if (each.status !== "ready") return NONE;
  const what = each.schema?.target?.join(", ");
  return what ?? (each.classes ? `${number(each.classes.length)} classes` : each.target ?? "what comes next");
}

const TITLES = [["Data set"], ["State"], ["Sequences", "number"], ["Features", "number"], ["Steps", "number"], ["To predict"], ["Size", "number"], ["Uploaded"]];
list("/v1/datasets", (datasets) => table(TITLES, datasets.map(line), "Data sets, newest first"));

// A new one

async function take(file) {
  if (!file) return;
  forget();
  const stop = new AbortController();
  const mine = (given = { file, upload: null, columns: await columnsOf(file), stop });
  the("sending").hidden = false;
  say(the("file-name"), file.name);
  the("name").value = corrected?.name ?? nameOf(file.name);
  try {
    mine.upload = await send(file, (sent) => {
      the("progress").value = sent / Math.max(file.size, 1);
      say(the("sent"), `${bytes(sent)} of ${bytes(file.size)}`);
    }, stop.signal);
    drawFields(statedOf(corrected));
    await check();
  } catch (error) {
    if (mine === given) problem(the("upload-problem"), error);
  }
}

/** The names of the columns, of a file whose first line has them. The service reads the others. */
async function columnsOf(file) {
  if (!/\.(csv|tsv)$/i.test(file.name)) return [];
  const first = (await file.slice(0, HEAD_BYTES).text()).split(/\r?\n/, 1)[0].replace(/^\uFEFF/, "");
  const sign = ["\t", ";", ",", "|"].sort((a, b) => first.split(b).length - first.split(a).length)[0];
  const cells = first.match(new RegExp(`("([^"]|"")*"|[^${sign === "|" ? "\\|" : sign}]*)(${sign === "|" ? "\\|" : sign}|$)`, "g")) ?? [];
  const names = cells.slice(0, cells.at(-1) === "" ? -1 : undefined).map((cell) => cell.replace(new RegExp(`${sign === "|" ? "\\|" : sign}$`), "").replace(/^"(.*)"$/s, (_, inner) => inner.replaceAll('""', '"')).trim());
  return names.length > 1 ? names.filter(Boolean) : [];
}

function nameOf(fileName) {
  return fileName.replace(/(\.\w{1,8}){1,2}$/, "").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 63) || "data";
}

/** What the sender has said of the columns of a data set. The service infers the rest anew. */
function statedOf(dataset) {
  const stated = (dataset?.report?.reasons ?? []).filter((each) => each.sure === "given").map((each) => each.field);
  return Object.fromEntries(stated.map((field) => [field, dataset.schema[field]]));
}

/** Says which file is asked for, on the way from the page of a data set. */
async function startCorrection() {
  const name = new URLSearchParams(location.search).get("correct");
  if (!name) return;
  corrected = await get(`/v1/datasets/${encodeURIComponent(name)}`);
  const size = corrected.source_bytes === null ? "" : ` (${corrected.format.toUpperCase()}, ${bytes(corrected.source_bytes)})`;
  say(the("upload-title"), `Correct the columns of ${name}`);
  say(the("correcting"), `Choose the file of ${name}${size} again. Then say what its columns are: that makes the next version, and jobs that used ${name} do not change.`);
  the("correcting").hidden = false;
}

/** The fields of a schema; each can be left to be inferred. */
function drawFields(schema) {
  const layout = h("select", { name: "layout" }, Object.entries(LAYOUTS).map(([value, text]) => h("option", { value, selected: value === (schema.layout ?? "") }, text)));
  const shown = FIELDS.map(([name, several]) => h("label", { class: "field" }, h("span", {}, COLUMNS[name]), choice(name, several, schema[name])));
  the("fields").replaceChildren(h("label", { class: "field" }, h("span", {}, COLUMNS.layout), layout), ...shown.slice(0, FIRST), h("details", { class: "wide-field" }, h("summary", {}, "More about its columns"), h("div", { class: "grid" }, shown.slice(FIRST))));
  for (const element of the("fields").querySelectorAll("select, input")) if (schema[element.name] !== undefined) element.dataset.changed = "yes";
  the("columns").hidden = false;
}

function choice(name, several, value) {
  const now = [value ?? []].flat();
  if (!given.columns.length) return h("input", { name, ".value": now.join(", "), placeholder: "inferred", autocomplete: "off" });
  const names = [...new Set([...given.columns, ...now])];
  const options = names.map((each) => h("option", { value: each, selected: now.includes(each) }, each));
  if (several) return h("select", { name, multiple: true, size: Math.min(5, Math.max(2, names.length)) }, options);
  return h("select", { name }, h("option", { value: "" }, "inferred"), options);
}

/** What the form says of the columns: only fields that somebody has changed, so that the others are inferred anew. */
function said() {
  const found = new URLSearchParams({ file: given.file.name });
  for (const element of the("fields").querySelectorAll("select, input")) {
    if (!element.dataset.changed) continue;
    const values = element.multiple ? [...element.selectedOptions].map((option) => option.value) : element.value.trim() ? [element.value.trim()] : [];
    if (!values.length) continue;
    found.set(element.name, element.multiple ? JSON.stringify(values) : values[0]);
  }
  return found;
}

/** Reads the file as the form says, and shows what comes of it. One reading follows the other. */
async function check() {
  const mine = given;
  mine.wanted = true;
  the("make").disabled = true;
  if (mine.reads) return;
  mine.reads = true;
  say(the("checking"), "reading …");
  try {
    let found;
    while (mine.wanted && mine === given) {
      mine.wanted = false;
      found = await post(`/v1/uploads/${mine.upload}/check?${said()}`);
    }
    if (mine === given) drawFindings(found);
  } catch (error) {
    if (mine === given) problem(the("upload-problem"), error);
  } finally {
    mine.reads = false;
    if (mine === given) say(the("checking"), "");
  }
}

function lengths({ min_length: least, max_length: most }) {
  return `${least === most ? "" : `${number(least)} to `}${number(most)} ${most === 1 ? "step" : "steps"}`;
}

function drawFindings(found) {
  problem(the("upload-problem"), null);
  the("make").disabled = found.problems.length > 0 || (found.message !== null && !found.unfinished);
  if (found.schema) infer(found.schema);
  const report = found.report;
  say(the("read"), inWords(found.message) ?? `Read as ${found.format.toUpperCase()}: ${report ? `${number(report.sequences)} ${report.sequences === 1 ? "sequence" : "sequences"} of ${lengths(report)}, ${number(report.features.length)} features` : `${number(found.samples)} sequences`}.`);
  the("read").className = found.message && !found.unfinished ? "notice bad" : "notice";
  const details = found.problems.map((each) => each.detail).filter((detail) => !found.message?.includes(detail)).map(inWords);
  const reasons = (report?.reasons ?? []).filter((each) => each.sure === "guess");
  fill(
    the("findings"),
    details.length > 0 && h("ul", { class: "notice bad" }, details.map((detail) => h("li", {}, detail))),
    together(found.warnings).map((warning) => h("p", { class: "notice warn" }, warning)),
    reasons.length > 0 && h("p", { class: "notice" }, "Guessed: ", reasons.map((each) => `${each.field} ${each.value} (${inWords(each.why)})`).join("; ")),
  );
}

/** Shows what was inferred in the fields that nobody has changed. */
function infer(schema) {
  for (const element of the("fields").querySelectorAll("select, input")) {
    if (element.dataset.changed) continue;
    const now = [schema[element.name] ?? []].flat();
    for (const name of element.options ? now : []) if (![...element.options].some((option) => option.value === name)) element.append(h("option", { value: name }, name));
    if (element.multiple) for (const option of element.options) option.selected = now.includes(option.value);
    else element.value = element.tagName === "SELECT" ? now[0] ?? "" : now.join(", ");
  }
}

async function make(event) {
  event.preventDefault();
  the("make").disabled = true;
  const query = said();
  query.set("name", the("name").value.trim());
  query.set("upload", given.upload);
  try {
    const found = await post(`/v1/datasets?${query}`);
    location.assign(`/datasets/${found.id}`);
  } catch (error) {
    problem(the("upload-problem"), error);
    the("make").disabled = false;
  }
}

function forget() {
  given?.stop.abort(new DOMException("forgotten", "AbortError"));
  given = null;
  the("sending").hidden = true;
  the("columns").hidden = true;
  problem(the("upload-problem"), null);
  the("progress").value = 0;
}

startCorrection().catch((error) => problem(the("upload-problem"), error));
the("file").addEventListener("change", () => take(the("file").files[0]));
the("forget").addEventListener("click", () => {
  the("file").value = "";
  forget();
});
the("fields").addEventListener("change", (event) => {
  event.target.dataset.changed = "yes";
  check();
});
the("columns").addEventListener("submit", make);
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.body.addEventListener(kind, (event) => {
    event.preventDefault();
    the("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && !the("drop").closest("section").hidden) take(event.dataTransfer.files[0]);
  });
}
