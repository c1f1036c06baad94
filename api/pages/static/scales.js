// Where most of some lines lies on a vertical axis, for a chart of which one line has diverged.

const TIMES = 5; // a line that is so many times as large as the typical one is an outlier
const TAIL = 0.02;

/** The ends of y without outliers, or null if there is nothing to leave out. `lines` are lists of values. */
export function calmRange(lines) {
  const known = lines.map(sorted).filter((values) => values.length > 0);
  if (!known.length) return null;
  const sizes = known.map((values) => highest(sorted(values.map(Math.abs))));
  const typical = sorted(sizes)[Math.floor((sizes.length - 1) / 2)];
  const calm = known.filter((_, index) => sizes[index] <= TIMES * typical);
  const low = Math.min(...calm.map((values) => values[tail(values)]));
  const high = Math.max(...calm.map(highest));
  const margin = 0.05 * (high - low);
  return margin > 0 ? [low - margin, high + margin] : null;
}

function sorted(values) {
  return values.filter((value) => value !== null).sort((a, b) => a - b);
}

/** How many sorted values are left out at each end. */
function tail(values) {
  return Math.floor(TAIL * values.length);
}

function highest(values) {
  return values[values.length - 1 - tail(values)];
}
