// What the filter box says: words that a run's name or path has, and conditions such as optim.lr=3e-5 or state=running.

import { asNumber } from "./format.js";

const CONDITION = /^([^=!<>~]+)(!=|>=|<=|=|>|<|~)(.*)$/;
const FIELDS = [
  "state",
  "name",
  "path",
  "task",
  "model",
  "step",
  "steps",
  "epoch",
  "ranks",
  "mfu",
  "goodput",
  "tokens",
  "tokens_per_s",
  "eta_s",
  "faults",
  "restarts",
  "checkpoints",
];

/** The words of a filter: {word, isPlain}. Those in quotes may hold spaces, and stand for themselves. */
function words(text) {
  const found = text.match(/(?:[^\s"]|"[^"]*"?)+/g) ?? [];
  return found.map((word) => ({ word: word.replaceAll('"', ""), isPlain: word.startsWith('"') }));
}

/** {matches(run), unknown: keys that no run has}. `names` are the recipe keys and the metrics that there are. */
export function parseFilter(text, recipeKeys, metrics) {
  const unknown = [];
  const tests = words(text).map(({ word, isPlain }) => {
    const parts = isPlain ? null : CONDITION.exec(word);
    if (!parts) return (run) => `${run.name} ${run.path}`.toLowerCase().includes(word.toLowerCase());
    const [, key, operator, wanted] = parts;
    const read = reader(key, recipeKeys, metrics);
    if (!read) unknown.push(key);
    return read ? (run) => compare(read(run), operator, wanted) : () => true;
  });
  return { matches: (run) => tests.every((test) => test(run)), unknown };
}

/** How the value of a key is read from a run; null for a key that there is not. `lr` stands for `optim.lr`. */
function reader(key, recipeKeys, metrics) {
  if (FIELDS.includes(key)) return (run) => run[key];
  const ends = recipeKeys.filter((name) => name === key || name.endsWith(`.${key}`));
  const exact = ends.find((name) => name === key) ?? (ends.length === 1 ? ends[0] : undefined);
  if (exact) return (run) => run.recipe[exact];
  if (metrics.includes(key)) return (run) => run.last[key];
  return null;
}

function compare(value, operator, wanted) {
  const [left, right] = [asNumber(value), wanted.trim() === "" ? NaN : Number(wanted)];
  const areNumbers = left !== undefined && !Number.isNaN(right);
  const text = value === null || value === undefined ? "null" : String(value);
  const isEqual = areNumbers ? left === right : text.toLowerCase() === wanted.toLowerCase();
  if (operator === "=") return isEqual;
  if (operator === "!=") return !isEqual;
  if (operator === "~") return text.toLowerCase().includes(wanted.toLowerCase());
  if (!areNumbers) return false;
  return { ">": left > right, "<": left < right, ">=": left >= right, "<=": left <= right }[operator];
}

/** What a filter may begin with, as suggestions. */
export function suggestions(recipeKeys, runs) {
  const states = [...new Set(runs.map((run) => run.state))].map((state) => `state=${state}`);
  const values = recipeKeys.flatMap((key) =>
    [...new Set(runs.map((run) => run.recipe[key]).filter((value) => value !== undefined && typeof value !== "object"))]
      .slice(0, 8)
      .map((value) => `${key}=${/\s/.test(String(value)) ? `"${value}"` : value}`),
  );
  return [...states, ...values].slice(0, 80);
}
