// What can be submitted: a job, a search or a batch. Each has its routes, its ready example, and what is foreseen of it.

import { bytes, number, words } from "./format.js";

const HORIZON = 24;
/** What is varied if the spec states all of its fields, so that the service has nothing to choose. */
const SPACE = { "training.optimizer.lr": { low: 0.0001, high: 0.1, log: true }, "architecture.hidden_size": { low: 8, high: 128, log: true } };
const MATRIX = { "architecture.cell": ["gru", "lstm"], "training.optimizer.lr": [0.001, 0.01] };

export const KINDS = {
  job: {
    title: "New job",
    path: "/v1/jobs",
    page: "/jobs",
    about: "A job trains one model. The service chooses what the spec does not state.",
    document: (base) => base,
    foreseen: (dry) => ({ pairs: ofOne(dry), warnings: dry.warnings, chosen: dry.chosen }),
  },
  search: {
    title: "New search",
    path: "/v1/searches",
    page: "/searches",
    about: "A search trains one model after the other with other values, and compares them on validation data. Then it trains the best one once more and tests it.",
    document: (base, { budget, isComplete }) => ({ ...base, search: { ...budget, ...(isComplete ? { space: SPACE } : {}) } }),
    foreseen: (dry) => ({ pairs: ofSearch(dry), warnings: dry.trial.warnings, chosen: dry.trial.chosen }),
  },
  batch: {
    title: "New batch",
    path: "/v1/batches",
    page: "/batches",
    about: "A batch submits several jobs at once: one for each combination of the values in its matrix.",
    document: (base) => ({ ...base, matrix: MATRIX }),
    foreseen: ({ data }) => ({ pairs: ofBatch(data), warnings: [...new Set(data.flatMap((dry) => dry.warnings))], chosen: data[0].chosen }),
  },
};

function ofOne(dry) {
  return [
    ["Data set", dry.dataset?.name],
    ["Parameters", dry.parameters === null ? null : number(dry.parameters)],
    ["Samples", dry.samples && `${["time", "content"].includes(dry.spec.data?.split?.method) ? "about " : ""}${number(dry.samples.train)} for training, ${number(dry.samples.validation)} for validation, ${number(dry.samples.test)} for test`],
    ["Steps", dry.steps === null ? null : `${number(dry.steps)}, ${number(dry.steps_per_epoch)} in an epoch`],
    ["Memory", dry.memory_bytes === null ? null : `at least ${bytes(dry.memory_bytes)}`],
    ["Time", dry.estimate.message],
    ["Faster", dry.cheaper],
    ["Not checked", dry.unchecked],
  ];
}

function ofSearch(dry) {
  const most = dry.minutes === null ? number(dry.trials) : `as many as there is time for in ${number(dry.minutes)} min, at most ${number(dry.trials)}`;
  return [
    ["Trials", `${most}; ${number(dry.parallel)} at once`],
    ["Varies", Object.keys(dry.space).join(", ")],
    ["Compares by", words(dry.metric)],
    ...ofOne(dry.trial).map(([title, value]) => (title === "Time" ? [title, dry.message] : [title, value])),
  ];
}

function ofBatch(jobs) {
  return [["Jobs", number(jobs.length)], ["Their names", jobs.map((dry) => dry.name).filter(Boolean).slice(0, 8).join(", ")], ...ofOne(jobs[0]).map(([title, value]) => (title === "Time" ? ["Time of the first", value] : [title, value]))];
}

/** The spec that leaves all but its data to the service. */
export function starter(dataset) {
  if (!dataset) return { name: "first", data: { synthetic: { samples: 1000, length: 50, features: 10, classes: 2 } } };
  const task = dataset.target === "series" ? { task: { name: "forecast", horizon: HORIZON } } : {};
  return { name: dataset.name, ...task, data: { dataset: `${dataset.name}@${dataset.version}` } };
}

/** A document as YAML: a line for each field, and for each path of a matrix or a space. */
export function yaml(document_) {
  const lines = Object.entries(document_).map(([key, value]) => {
    const paths = value !== null && typeof value === "object" && Object.keys(value).some((each) => each.includes("."));
    return paths ? `${key}:\n${Object.entries(value).map(([path, each]) => `  ${path}: ${flow(each)}`).join("\n")}` : `${key}: ${flow(value)}`;
  });
  return `${lines.join("\n")}\n`;
}

function flow(value) {
  if (Array.isArray(value)) return `[${value.map(flow).join(", ")}]`;
  if (value !== null && typeof value === "object") return `{${Object.entries(value).map(([key, each]) => `${key}: ${flow(each)}`).join(", ")}}`;
  return typeof value === "string" && /^[a-z][\w.@-]*$/i.test(value) && !/^(true|false|null)$/i.test(value) ? value : JSON.stringify(value);
}
