// A small curve for a table: the losses of a job as `/v1/curves` gives them.

import { svg } from "./dom.js";
import { number } from "./format.js";

const WIDTH = 100;
const HEIGHT = 30;

/** Both losses on one scale, which is logarithmic, because a loss falls fast at first; null with fewer than two points. */
export function sparkline(curve) {
  const lines = { train: curve.train_loss, validation: curve.validation_loss };
  const all = Object.values(lines).flat().filter((value) => value !== null);
  if (all.length < 2) return null;
  const scale = Math.min(...all) > 0 ? Math.log : (value) => value;
  const low = scale(Math.min(...all));
  const span = scale(Math.max(...all)) - low || 1;
  const place = (value, index, count) => {
    const x = (index / Math.max(count - 1, 1)) * WIDTH;
    const y = HEIGHT - 1 - ((scale(value) - low) / span) * (HEIGHT - 2);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  };
  const drawn = Object.entries(lines).map(([name, line]) => {
    const points = line.flatMap((value, index) => (value === null ? [] : [place(value, index, line.length)]));
    return svg("polyline", { class: name, points: points.join(" ") });
  });
  const judged = lines.validation.some((value) => value !== null) ? "validation" : "train";
  const known = lines[judged].filter((value) => value !== null);
  const label = `${judged === "train" ? "Training" : "Validation"} loss from ${number(known[0])} to ${number(known.at(-1))}`;
  return svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, ...drawn);
}
