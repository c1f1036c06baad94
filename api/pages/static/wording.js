// What the service says to people at a command line, in the words of the pages: a field of a form for each option.

/** The fields of a schema, as the form of a new data set names them. */
export const COLUMNS = {
  layout: "Layout",
  group: "Columns that name the sequence",
  order: "Column that orders the steps",
  target: "Columns to predict",
  features: "Columns that a model reads at each step",
  static: "Columns with one value for each sequence",
  text: "Column of texts",
  known_future: "Features that are known ahead",
  weight: "Column with the weight of each sequence",
  split: "Column of train, validation, test",
};
const OPTION = /--(layout|group|order|target|features|static|text|known-future|weight|split)\b(?: NAME\b| (long|wide|files|text)\b)?/g;
const OF_A_SPEC = /, or (?:give )?data\.schema\.\w+ (?:in a spec|with it)/g;
const UPLOAD = /upload with POST \/v1\/datasets\?name=NAME/g;
const COMMAND = /`loopline batches show (batch_\w+)`/g;
const NAME = /`([^`]+)`/g;

export function inWords(text) {
  if (typeof text !== "string") return text;
  return text
    .replace(OF_A_SPEC, "")
    .replace(UPLOAD, "upload it on the page Data sets")
    .replace(OPTION, (_, name, value) => `“${COLUMNS[name.replace("-", "_")]}${value ? `: ${value}` : ""}”`)
    .replace(COMMAND, "the batch $1")
    .replace(NAME, "“$1”");
}

/** Warnings in words; those that differ only before their first semicolon are one. */
export function together(warnings) {
  const found = new Map();
  for (const warning of new Set(warnings)) {
    const [, what, advice] = warning.match(/^(.*?)(; .*)?$/s);
    const key = advice ?? warning;
    found.set(key, { what: [...(found.get(key)?.what ?? []), what], advice: advice ?? "" });
  }
  return [...found.values()].map(({ what, advice }) => inWords(what.join(", ") + advice));
}
