// The labels of axes, all of an axis with the same number of digits.

import { duration, short } from "../format.js";

/** Labels of a value axis. */
export function valueTicks(splits) {
  const finite = splits.filter((value) => value !== null);
  const largest = Math.max(...finite.map(Math.abs));
  const step = finite.length > 1 ? Math.abs(finite[1] - finite[0]) : largest;
  if (largest >= 1e4) return splits.map((value) => (value === null ? "" : short(value)));
  if (largest > 0 && largest < 1e-2)
    return splits.map((value) => (value === null ? "" : value === 0 ? "0" : tiny(value)));
  const digits =
    [0, 1, 2, 3, 4, 5].find((each) => Math.abs(step * 10 ** each - Math.round(step * 10 ** each)) < 1e-6) ?? 6;
  return splits.map((value) => (value === null ? "" : value.toFixed(digits)));
}

/** Labels of a logarithmic value axis, each by itself: 0.001, 0.1, 10. */
export function logTicks(splits) {
  return splits.map((value) =>
    value === null
      ? ""
      : value >= 1e4
        ? short(value)
        : value < 1e-3
          ? tiny(value)
          : String(Number(value.toPrecision(3))),
  );
}

/** Labels of the axis of steps, tokens, seconds or epochs. */
export function axisTicks(axis) {
  if (axis === "time") return (splits) => splits.map((value) => (value === 0 ? "0" : duration(value)));
  if (axis === "epoch") return valueTicks;
  return (splits) => splits.map((value) => (Number.isInteger(value) ? short(value) : ""));
}

const tiny = (value) => value.toExponential(1).replace(".0e", "e");

const SECONDS = [
  1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000,
];
/** Distances between labels that suit an axis of seconds; elsewhere uPlot's own. */
export const increments = (axis) => (axis === "time" ? SECONDS : undefined);
