// What the planner predicted, beside what was measured where the server says both.

import { plain } from "../format.js";
import { t } from "../text.js";
import { facts, table } from "./parts.js";

/** A table of {name, predicted, real} rows, or all entries of a plan that is something else; null without a plan. */
export function planned(plan) {
  if (!plan) return null;
  const { rows, ...rest } = plan;
  if (!Array.isArray(rows)) return facts(plan);
  const head = [t("plan.what"), t("plan.predicted"), t("plan.real")];
  return [table(head, rows.map((row) => [row.name, plain(row.predicted), plain(row.real)]), [1, 2]), facts(rest)];
}
