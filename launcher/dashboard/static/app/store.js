// What is shown (the view, which the address holds) and what it is shown of (the runs), and who is told of changes.

import { soon } from "./dom.js";
import { decode, DEFAULTS, encode } from "./hash.js";

const MOST_AUTOMATIC = 5;
export const MOST_COMPARED = 50;
const ADDRESS_MS = 150; // browsers refuse hundreds of addresses in a few seconds, as a slider would make

export const view = { ...DEFAULTS };
export const data = { root: "", runs: [], byId: new Map(), metrics: [], recipeKeys: [], loaded: false };
const listeners = [];

/** Calls `listener(names)` after each change with the set of names of what changed: fields of the view, or "runs". */
export function subscribe(listener) {
  listeners.push(listener);
}

function tell(names) {
  for (const listener of listeners) listener(names);
}

/** Changes the view and the address; with `push`, the browser's Back returns to the view before. */
export function setView(patch, { push = false } = {}) {
  const changed = new Set(
    Object.keys(patch).filter((name) => JSON.stringify(view[name]) !== JSON.stringify(patch[name])),
  );
  if (!changed.size) return;
  if (push) writeAddress();
  Object.assign(view, patch);
  if (push) history.pushState(null, "", `#${encode(view)}`);
  else writeAddressSoon();
  tell(changed);
}

const writeAddress = () => history.replaceState(null, "", `#${encode(view)}`);
const writeAddressSoon = soon(writeAddress, ADDRESS_MS);

/** Takes the view over from the address: at the start, on Back, and when a link was pasted. */
export function readAddress() {
  const next = decode(location.hash.slice(1));
  const changed = new Set(
    Object.keys(next).filter((name) => JSON.stringify(view[name]) !== JSON.stringify(next[name])),
  );
  Object.assign(view, next);
  if (changed.size) tell(changed);
}

/** Takes over an answer of /api/runs. */
export function setRuns(answer) {
  Object.assign(data, {
    root: answer.root,
    runs: answer.runs,
    byId: new Map(answer.runs.map((run) => [run.id, run])),
    metrics: answer.metrics,
    recipeKeys: answer.recipe_keys,
    loaded: true,
  });
  tell(new Set(["runs"]));
}

/** The ids of the runs that are compared: those that were chosen, or else the newest that have a step, running ones first. */
export function selection() {
  if (view.selected) return view.selected.filter((id) => data.byId.has(id)).slice(0, MOST_COMPARED);
  return data.runs
    .filter((run) => run.step > 0)
    .sort((a, b) => isRunning(b) - isRunning(a) || (b.started ?? 0) - (a.started ?? 0) || (a.id < b.id ? -1 : 1))
    .slice(0, MOST_AUTOMATIC)
    .map((run) => run.id);
}

const isRunning = (run) => Number(run.state === "running");

export function toggleSelected(id) {
  const chosen = selection();
  setView({ selected: chosen.includes(id) ? chosen.filter((other) => other !== id) : [...chosen, id] });
}
