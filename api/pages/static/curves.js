// The numbers of one job, epoch by epoch and step by step, and what has come in since they were asked for.

import { all, get } from "./api.js";

const POINTS = 2000;
const MOST_POINTS = 2 * POINTS;

export class Curves {
  epochs = [];
  steps = { step: [], loss: [], grad_norm: [] };
  perEpoch = 1;
  #path;
  #attempt = null;
  #pending = Promise.resolve();
  #seconds = [0];

  constructor(jobId) {
    this.#path = `/v1/jobs/${jobId}`;
  }

  /** Asks for what is new; `job` is the job as it is now. Gives whether there was something. */
  update(job) {
    const next = this.#pending.then(() => this.#update(job));
    this.#pending = next.catch(() => {});
    return next;
  }

  async #update(job) {
    const { epoch, step, epochs, steps } = job.progress;
    // Another attempt begins at its checkpoint, and what was beyond is recorded anew.
    const known = this.epochs.at(-1)?.epoch ?? 0;
    const stepped = this.steps.step.at(-1) ?? 0;
    const anew = (this.#attempt !== null && this.#attempt !== job.attempt) || epoch < known || step < stepped;
    this.#attempt = job.attempt;
    const [records, numbers] = await Promise.all([
      epoch > known || anew ? all(`${this.#path}/epochs`, { key: "epoch", limit: 10000, after: anew ? 0 : known }) : [],
      step > stepped || anew ? this.part(anew ? 1 : stepped + 1) : null,
    ]);
    if (anew) {
      this.epochs = [];
      this.steps = { step: [], loss: [], grad_norm: [] };
    }
    this.epochs.push(...records);
    if (numbers) {
      if (this.steps.step.length + numbers.step.length > MOST_POINTS) this.steps = await this.part(1);
      else for (const name of Object.keys(this.steps)) this.steps[name].push(...numbers[name]);
    }
    this.perEpoch = (steps && epochs ? steps / epochs : step / epoch) || 1;
    this.#seconds = [0];
    for (const record of this.epochs) this.#seconds.push(this.#seconds.at(-1) + (record.seconds ?? 0));
    return anew || records.length > 0 || (numbers !== null && numbers.step.length > 0);
  }

  /** The steps of a part of the run, thinned out by the service. */
  async part(first, last = null) {
    const { step, loss, grad_norm } = await get(`${this.#path}/steps?points=${POINTS}&first=${first}${last === null ? "" : `&last=${last}`}`);
    return { step, loss, grad_norm };
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

  /** A field of the epochs as a line. */
  line(field, axis) {
    return {
      x: this.epochs.map((record) => this.ofEpoch(record.epoch, axis)),
      y: this.epochs.map((record) => record[field] ?? null),
    };
  }

  #time(epoch) {
    const whole = Math.min(Math.floor(epoch), this.#seconds.length - 1);
    const from = this.#seconds[whole];
    const next = this.#seconds[whole + 1] ?? from + (from - (this.#seconds[whole - 1] ?? 0));
    return from + (epoch - whole) * (next - from);
  }
}
