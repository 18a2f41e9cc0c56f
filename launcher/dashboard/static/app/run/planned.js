// What the planner predicted of a run, beside what is known of it by now.

import { bytes, duration, number, percent, short } from "../format.js";
import { t } from "../text.js";
import { facts, flat, table } from "./parts.js";

const NOT_PREDICTED = ["preparing", "queueing", "restarting", "repeated"]; // as in shardtune/run_dir/view/predicted.py

/** A table of predictions and real numbers, and what else the plan says; null without a plan. */
export function planned(detail, run) {
  const { plan } = detail;
  if (!plan) return null;
  const known = compared(detail, run).filter(({ key, real }) => typeof plan[key] === "number" && real > 0);
  const rows = known.map(({ key, real, show }) => [
    t(`plan.${key}`),
    show(plan[key]),
    show(real),
    off(plan[key] / real - 1),
  ]);
  const names = known.map(({ key }) => key);
  const rest = Object.fromEntries(flat(plan).filter(([key]) => !names.includes(key)));
  const head = [t("plan.what"), t("plan.predicted"), t("plan.real"), t("plan.error")];
  return [rows.length ? table(head, rows, [1, 2, 3]) : null, facts(rest)];
}

/** What can be predicted, with what it has become: {key of the plan, real, how it is shown}. Of a step these are the
 * medians of the newest ones: a single one may be that beside a checkpoint. */
function compared({ memory, time_use: causes, typical }, run) {
  const spent = (causes ?? [])
    .filter((each) => !NOT_PREDICTED.includes(each.cause))
    .reduce((sum, each) => sum + each.seconds, 0);
  return [
    { key: "memory_bytes", real: 1e9 * (memory?.gpu_gb ?? memory?.host_gb ?? 0), show: bytes },
    { key: "step_s", real: typical?.step_time_s, show: (value) => t("unit.s", { n: number(value) }) },
    { key: "tokens_per_s", real: typical?.tokens_per_s, show: short },
    { key: "run_s", real: run?.state === "finished" ? spent : 0, show: duration },
  ];
}

const off = (error) => `${error > 0 ? "+" : ""}${percent(error, 0)}`;
