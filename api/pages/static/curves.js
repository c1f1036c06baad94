// The numbers of one job, epoch by epoch and step by step, and what has come in since they were asked for.

import { all, get } from "./api.js";

const POINTS = 2000;
const MOST_POINTS = 2 * POINTS;
const STRETCHES = POINTS / 4;

export class Curves {
  epochs = [];
  steps = { step: [], loss: [], grad_norm: [], fold: [] };
  perEpoch = 1;
  #path;
  #attempt = null;
  #pending = Promise.resolve();
  #seconds = [0];

  constructor(jobId) {
    this.#path = `/v1/jobs/${encodeURIComponent(jobId)}`;
  }

  /** Asks for what is new; `job` is the job as it is now. Gives whether there was something. */
  update(job) {
    const next = this.#pending.then(() => this.#update(job));
    this.#pending = next.catch(() => {});
    return next;
  }

  /** How many steps an epoch has, as far as that is known. */
  measure({ progress: { epoch, epochs, step, steps } }) {
    this.perEpoch = (steps && epochs ? steps / epochs : step / epoch) || 1;
  }

  /** The steps of one fold alone. */
  static ofFold(steps, fold) {
    if (fold === null) return steps;
    const kept = steps.fold.flatMap((each, index) => (each === fold ? [index] : []));
    return Object.fromEntries(Object.entries(steps).map(([name, values]) => [name, kept.map((index) => values[index])]));
  }

  /** What a stream has said of new steps or of an epoch, in its order. */
  addSteps(numbers) {
    const known = this.steps.step.at(-1) ?? 0;
    const from = numbers.step.findIndex((step) => step > known);
    if (from < 0) return;
    const fold = numbers.fold ?? numbers.step.map(() => null);
    for (const [name, values] of Object.entries({ ...numbers, fold })) this.steps[name]?.push(...values.slice(from));
    if (this.steps.step.length > MOST_POINTS) this.#thin();
  }

  addEpoch(record) {
    if (record.epoch <= (this.epochs.at(-1)?.epoch ?? 0)) return;
    this.epochs.push(record);
    this.#seconds.push(this.#seconds.at(-1) + (record.seconds ?? 0));
  }

  /** What is beyond a place of the run is recorded once more. */
  dropBeyond(step, epoch) {
    const kept = this.steps.step.findLastIndex((each) => each <= step) + 1;
    for (const name of Object.keys(this.steps)) this.steps[name].length = kept;
    this.epochs = this.epochs.filter((record) => record.epoch <= epoch);
    this.#seconds.length = this.epochs.length + 1;
  }

  /** Leaves out points that a chart does not show: of each stretch of the run the least and greatest of both stay. */
  #thin() {
    const { step, loss, grad_norm } = this.steps;
    const stretch = (step.at(-1) - step[0] + 1) / STRETCHES;
    const kept = new Set([0, step.length - 1]);
    for (let from = 0; from < step.length; ) {
      const place = Math.floor((step[from] - step[0]) / stretch);
      let to = from;
      while (to < step.length && Math.floor((step[to] - step[0]) / stretch) === place) to += 1;
      for (const values of [loss, grad_norm]) for (const index of extremes(values, from, to)) kept.add(index);
      from = to;
    }
    const indices = [...kept].sort((a, b) => a - b);
    for (const [name, values] of Object.entries(this.steps)) this.steps[name] = indices.map((index) => values[index]);
  }

  async #update(job) {
    const { epoch, step } = job.progress;
    // Another attempt begins at its checkpoint, and what was beyond is recorded anew.
    const known = this.epochs.at(-1)?.epoch ?? 0;
    const stepped = this.steps.step.at(-1) ?? 0;
    const anew = (this.#attempt !== null && this.#attempt !== job.attempt) || epoch < known || step < stepped;
    this.#attempt = job.attempt;
    const [records, numbers] = await Promise.all([
      epoch > known || anew ? all(`${this.#path}/epochs`, { key: "epoch", limit: 10000, after: anew ? 0 : known }) : [],
      step > stepped || anew ? this.part(anew ? 1 : stepped + 1) : null,
    ]);
    if (anew) this.dropBeyond(0, 0);
    for (const record of records) this.addEpoch(record);
    if (numbers) this.addSteps(numbers);
    this.measure(job);
    return anew || records.length > 0 || (numbers !== null && numbers.step.length > 0);
  }

  /** The steps of a part of the run, thinned out by the service. */
  async part(first, last = null) {
    const { step, loss, grad_norm, fold } = await get(`${this.#path}/steps?points=${POINTS}&first=${first}${last === null ? "" : `&last=${last}`}`);
    return { step, loss, grad_norm, fold: fold ?? step.map(() => null) };
  }

  /** Where an epoch is on the axis: by `epoch`, `step` or `time` in seconds of training. */
  ofEpoch(epoch, axis) {
    if (axis === "step") return epoch * this.perEpoch;
    return axis === "time" ? this.#time(epoch) : epoch;
  }

  ofStep(step, axis) {
    if (axis === "step") return step;
    return axis === "time" ? this.#time(step / this.perEpoch) : step / this.perEpoch;
  }

  /** The step at a place on the axis. */
  toStep(place, axis) {
    if (axis === "step") return place;
    if (axis === "epoch") return place * this.perEpoch;
    const after = this.#seconds.findIndex((seconds) => seconds >= place);
    if (after <= 0) return after === 0 ? 1 : this.epochs.length * this.perEpoch;
    const [from, to] = [this.#seconds[after - 1], this.#seconds[after]];
    return (after - 1 + (to > from ? (place - from) / (to - from) : 0)) * this.perEpoch;
  }

  /** The names of fields that some epoch has, such as `validation_accuracy`. */
  fields() {
    return [...new Set([this.epochs[0], this.epochs.at(-1)].flatMap((record) => Object.keys(record ?? {})))];
  }

  /** A field of the epochs as a line, of one fold if it is given. */
  line(field, axis, fold = null) {
    const records = fold === null ? this.epochs : this.epochs.filter((record) => record.fold === fold);
    return {
      x: records.map((record) => this.ofEpoch(record.epoch, axis)),
      y: records.map((record) => record[field] ?? null),
    };
  }

  #time(epoch) {
    const whole = Math.min(Math.floor(epoch), this.#seconds.length - 1);
    const from = this.#seconds[whole];
    const next = this.#seconds[whole + 1] ?? from + (from - (this.#seconds[whole - 1] ?? 0));
    return from + (epoch - whole) * (next - from);
  }
}

/** Where the least and the greatest of a part of the values are. What is missing counts as greatest. */
function extremes(values, from, to) {
  const rank = (index) => values[index] ?? Infinity;
  let [least, greatest] = [from, from];
  for (let index = from + 1; index < to; index += 1) {
    if (rank(index) < rank(least)) least = index;
    if (rank(index) > rank(greatest)) greatest = index;
  }
  return [least, greatest];
}
