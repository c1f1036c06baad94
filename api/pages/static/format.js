// Numbers with units, and times in the reader's zone.

import { h } from "./dom.js";

export const NONE = "–";

/** A number with four significant digits. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(Math.max(digits - 2, 1));
  const places = { maximumSignificantDigits: digits, minimumSignificantDigits: Math.min(digits, 3) };
  return isHalfway(value, digits) ? value.toLocaleString("en", { ...places, roundingMode: "halfEven" }) : Number(value.toPrecision(digits)).toLocaleString("en", places);
}

/** Whether a number lies exactly between two that have so many digits. The service rounds such a number to the even one,
 * and any other by its exact value, so the pages do too. */
function isHalfway(value, digits) {
  const exact = value.toPrecision(100).replace(/^-?0*\.?0*|\./g, "");
  return /^50*$/.test(exact.slice(digits));
}

export function percent(fraction) {
  return `${Math.floor(fraction * 100)} %`;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let value = count;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}

/** Seconds as people say them: `42 s`, `3 min 5 s`, `22 min`, `2 h 10 min`, `3 d 4 h`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 10 && seconds % 1) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const parts = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  const few = parts[first][0] >= 10 ? 1 : 2;
  return parts
    .slice(first, first + few)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}

const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const EXACT = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const LONG = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/** A moment of an answer as a `time` element: the clock alone if it was today. Its title has date and zone. */
export function moment(text, { seconds = false } = {}) {
  if (!text) return NONE;
  const at = new Date(text);
  const today = new Date().toDateString() === at.toDateString();
  const shown = today ? (seconds ? EXACT : CLOCK).format(at) : DAY.format(at);
  return h("time", { datetime: text, title: LONG.format(at) }, shown);
}

const MIDNIGHT = /[T ]00:00(:00(\.0+)?)?$/;

/** Times of a data set as people write them: without `T`, and as dates alone if each of them is a midnight. */
export function dated(times) {
  const texts = times.map((time) => String(time ?? ""));
  const daily = texts.every((text) => MIDNIGHT.test(text));
  return texts.map((text) => (daily ? text.replace(MIDNIGHT, "") : text.replace(/(?<=\d)T(?=\d)/, " ")));
}

/** Seconds between two moments of an answer; the second may be missing, and is now then. */
export function between(start, end) {
  return start ? Math.max(0, ((end ? new Date(end) : new Date()) - new Date(start)) / 1000) : null;
}

/** `validation_macro_f1` as people read it. */
export function words(name) {
  const spelled = { lr: "learning rate", f1: "F1", auroc: "AUROC", mae: "MAE", rmse: "RMSE", r2: "R²", smape: "sMAPE", mase: "MASE" };
  return name.split("_").map((part) => spelled[part] ?? part).join(" ");
}
