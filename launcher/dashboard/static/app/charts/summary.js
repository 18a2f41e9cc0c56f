// A chart in words, for those who do not see it.

import { number } from "../format.js";
import { t } from "../text.js";

const MOST_RUNS = 5;

/** "train/loss by step; lr3: from 2.31 to 0.41, lowest 0.39, highest 2.31; …" */
export function describe(metric, axis, runs) {
  if (!runs.length) return t("summary.nothing", { metric });
  const parts = runs.slice(0, MOST_RUNS).map((run) => {
    const values = run.y.filter((value) => value !== null);
    if (!values.length) return t("summary.none", { name: run.name });
    const [low, high] = values.reduce(
      ([a, b], value) => [Math.min(a, value), Math.max(b, value)],
      [Infinity, -Infinity],
    );
    return t("summary.run", {
      name: run.name,
      first: number(values[0]),
      last: number(values.at(-1)),
      low: number(low),
      high: number(high),
    });
  });
  const more = runs.length > MOST_RUNS ? [t("more", { n: runs.length - MOST_RUNS })] : [];
  return [t("summary.head", { metric, axis: t(`axis.${axis}`) }), ...parts, ...more].join("; ");
}
