// The columns that the table of runs can have: what each is called, sorts by and shows.

import { h, icon, setText } from "../dom.js";
import { asNumber, count, duration, moment, number, percent, plain, short } from "../format.js";
import { scores } from "../scores.js";
import { data } from "../store.js";
import { hasText, t } from "../text.js";

const MOST_METRICS = 3;
const MOST_KEYS = 4;

const simple = (key, format, isNumber = true) => ({
  key,
  title: t(`column.${key}`),
  isNumber,
  sortBy: (run) => run[key] ?? null,
  text: (run) => format(run[key]),
});

const FIXED = [
  { ...simple("state", (state) => stateName(state), false), hint: (run) => run.why ?? "" },
  { key: "progress", title: t("column.progress"), isNumber: false, sortBy: share, fill: fillProgress },
  simple("eta_s", duration),
  simple("tokens_per_s", short),
  simple("mfu", percent),
  simple("goodput", percent),
  simple("tokens", short),
  simple("epoch", (epoch) => (typeof epoch === "number" ? epoch.toFixed(2) : number(epoch))),
  simple("started", moment),
  simple("updated", moment),
  simple("ranks", count),
  simple("faults", count),
  simple("restarts", count),
  simple("checkpoints", count),
  simple("task", (task) => task ?? "–", false),
  simple("model", (model) => model ?? "–", false),
];

/** The part of its steps that a run has done, from 0 to 1; null before the first. */
export function share(run) {
  return run.step === null || !run.steps ? null : Math.min(1, run.step / run.steps);
}

/** "1,200 / 5,000" */
export function stepsText(run) {
  if (run.step === null) return "";
  return run.steps ? `${count(run.step)} / ${count(run.steps)}` : count(run.step);
}

/** A bar of the run's progress, which is kept and refilled. */
export function progressBar() {
  return h("span", { class: "bar", "aria-hidden": "true" }, h("span", { class: "bar-done" }));
}

export function fillBar(bar, run) {
  bar.dataset.state = run.state;
  bar.firstChild.style.width = `${100 * (share(run) ?? 0)}%`;
}

function fillProgress(cell, run) {
  if (!cell.firstChild?.classList) cell.replaceChildren(progressBar(), h("span", { class: "steps" }));
  fillBar(cell.firstChild, run);
  setText(cell.lastChild, stepsText(run));
}

const last = (name) => ({
  key: `last:${name}`,
  title: name,
  isNumber: true,
  sortBy: (run) => asNumber(run.last[name]) ?? null,
  text: (run) => number(run.last[name]),
});

const best = (name) => ({
  key: `best:${name}`,
  title: t("column.best", { name: name.replace(/^dev\//, "") }),
  name: t("column.best", { name }),
  isNumber: true,
  sortBy: (run) => asNumber(run.best[name]?.value) ?? null,
  text: (run) => number(run.best[name]?.value),
  hint: (run) => (run.best[name] ? t("best.hint", { step: count(run.best[name].step) }) : ""),
});

const ofRecipe = (key) => ({
  key: `recipe:${key}`,
  title: key,
  isNumber: false,
  isRecipe: true,
  sortBy: (run) => asNumber(run.recipe[key]) ?? run.recipe[key] ?? null,
  text: (run) => (key in run.recipe ? recipeText(run.recipe[key]) : "–"),
});

/** A value of a recipe as one would write it: 3e-5, not 0.00003; 10000, not 10,000. */
const recipeText = (value) => (typeof value === "number" && Math.abs(value) >= 1e-3 ? String(value) : plain(value));

const bestNames = () => [...new Set(data.runs.flatMap((run) => Object.keys(run.best)))].sort();

/** All columns that there are, in groups: [title, columns]. */
export function columnGroups() {
  return [
    [t("columns.run"), FIXED],
    [t("columns.best"), bestNames().map(best)],
    [t("columns.last"), data.metrics.map((metric) => last(metric.name))],
    [t("columns.recipe"), data.recipeKeys.map(ofRecipe)],
  ];
}

/** The keys of the usual columns: of a narrow table the two most telling metrics. */
export function usualColumns(isNarrow) {
  const bests = scores(bestNames());
  const loss = data.metrics.some((metric) => metric.name === "train/loss") ? ["last:train/loss"] : [];
  if (isNarrow) return [...loss, ...bests.slice(0, 1).map((name) => `best:${name}`)];
  const keys = data.recipeKeys.slice(0, MOST_KEYS).map((key) => `recipe:${key}`);
  const metrics = [...loss, ...bests.slice(0, MOST_METRICS - loss.length).map((name) => `best:${name}`)];
  return ["state", "progress", "eta_s", ...metrics, ...keys, "goodput", "mfu", "tokens_per_s", "started"];
}

/** The columns with these keys, in this order, without those that no run has any more. */
export function columnsOf(keys) {
  const all = new Map(columnGroups().flatMap(([, columns]) => columns.map((column) => [column.key, column])));
  return keys.map((key) => all.get(key)).filter(Boolean);
}

/** A state in words; also one that this page does not know yet. */
export const stateName = (state) => (hasText(`state.${state}`) ? t(`state.${state}`) : state);

/** The icon of a state, with its name for screen readers. */
export function stateMark(state) {
  return h(
    "span",
    { class: `state state-${state}`, title: stateName(state) },
    icon(state),
    h("span", { class: "unseen" }, stateName(state)),
  );
}
