// The points of the charts, as they are asked for: only what is missing or has changed, many metrics in one request.

import { getSeries } from "../api.js";
import { soon } from "../dom.js";

const MOST_POINTS = 1200; // of one run in one chart
const FEWEST_POINTS = 150;
const ALL_POINTS = 9000; // of all runs in one chart
const MOST_METRICS = 6; // in one request
const MOST_REQUESTS = 3; // at the same time
const COLLECT_MS = 20;
const PENDING_MS = 2000;

const NO_POINTS = { x: [], y: [], count: 0 };

/** A store of series for one axis and range. `onArrival(metrics)` is told which metrics have new points. */
export function makeSeries({ onArrival, onFault }) {
  let scope = { axis: "step", range: null, points: MOST_POINTS };
  let abort = new AbortController();
  let kept = new Map(); // "metric run" -> {x, y, count}
  const wanted = new Map(); // metric -> set of runs
  const asked = new Set(); // "metric run" on its way
  const stale = new Set(); // "metric run" to be asked for again
  const pending = new Map(); // run -> when it may be asked for again: the server is still reading it
  const queue = [];
  let running = 0;
  const send = soon(flush, COLLECT_MS);

  /** Changes axis, range or number of runs; what was kept is forgotten if that matters. */
  function setScope(axis, range, numRuns) {
    const points = Math.max(
      FEWEST_POINTS,
      Math.min(MOST_POINTS, Math.floor(ALL_POINTS / Math.max(1, numRuns) / 50) * 50),
    );
    const isSame = axis === scope.axis && JSON.stringify(range) === JSON.stringify(scope.range);
    if (isSame && points <= scope.points && points * 2 > scope.points) return;
    scope = { axis, range, points };
    if (isSame) {
      for (const key of kept.keys()) stale.add(key);
      return;
    }
    abort.abort();
    abort = new AbortController();
    kept = new Map();
    stale.clear();
    asked.clear();
    wanted.clear();
    queue.length = 0;
  }

  const key = (metric, run) => `${metric} ${run}`;
  const get = (metric, run) => kept.get(key(metric, run));

  /** Asks for the points of these runs that are missing or have changed. */
  function want(metric, runs) {
    for (const run of runs) {
      const name = key(metric, run);
      if ((kept.has(name) && !stale.has(name)) || asked.has(name) || pending.get(run) > Date.now()) continue;
      if (!wanted.has(metric)) wanted.set(metric, new Set());
      wanted.get(metric).add(run);
    }
    if (wanted.has(metric)) send();
  }

  /** These runs have new points; they are asked for when a chart wants them. */
  function changed(runs) {
    const ids = new Set(runs);
    for (const run of ids) pending.delete(run);
    for (const name of [...kept.keys(), ...asked]) if (ids.has(name.slice(name.lastIndexOf(" ") + 1))) stale.add(name);
  }

  /** Puts what is wanted into requests: those metrics together that want the same runs. */
  function flush() {
    const groups = new Map();
    for (const [metric, runs] of wanted) {
      const ids = [...runs].sort();
      const group = groups.get(ids.join()) ?? { runs: ids, metrics: [] };
      group.metrics.push(metric);
      groups.set(ids.join(), group);
      for (const run of ids) {
        asked.add(key(metric, run));
        stale.delete(key(metric, run));
      }
    }
    wanted.clear();
    for (const { runs, metrics } of groups.values()) {
      for (let start = 0; start < metrics.length; start += MOST_METRICS) {
        queue.push({ runs, metrics: metrics.slice(start, start + MOST_METRICS) });
      }
    }
    work();
  }

  function work() {
    while (running < MOST_REQUESTS && queue.length) {
      running += 1;
      load(queue.shift()).finally(() => {
        running -= 1;
        work();
      });
    }
  }

  async function load({ runs, metrics }) {
    const now = { scope, signal: abort.signal };
    try {
      const answer = await getSeries(runs, metrics, scope.axis, scope.range, scope.points, now.signal);
      if (now.signal.aborted) return;
      for (const run of answer.pending) pending.set(run, Date.now() + PENDING_MS);
      for (const run of runs.filter((id) => !pending.has(id)))
        for (const metric of metrics) kept.set(key(metric, run), NO_POINTS);
      for (const each of answer.series) kept.set(key(each.metric, each.run), ascending(each));
      release(runs, metrics);
      onArrival(metrics);
    } catch (error) {
      if (error.name === "AbortError") return;
      release(runs, metrics);
      for (const metric of metrics) for (const run of runs) stale.add(key(metric, run));
      onFault(error);
    }
  }

  function release(runs, metrics) {
    for (const metric of metrics) for (const run of runs) asked.delete(key(metric, run));
  }

  return { setScope, get, want, changed, range: () => scope.range };
}

/** The series with x strictly ascending, as uPlot needs it: clocks of machines may jump back. */
function ascending({ x, y, count }) {
  if (x.every((value, index) => index === 0 || value > x[index - 1])) return { x, y, count };
  const last = new Map(x.map((value, index) => [value, y[index]]));
  const xs = [...last.keys()].sort((a, b) => a - b);
  return { x: xs, y: xs.map((value) => last.get(value)), count };
}
