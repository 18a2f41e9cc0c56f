// Requests to the server of this page: JSON, or an error that says what went wrong.

/** Raised when the server refuses; `status` is 0 where there was no answer at all. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const PATIENCE_MS = 30_000;

async function getJson(path, signal) {
  let answer;
  try {
    const limits = [AbortSignal.timeout(PATIENCE_MS), ...(signal ? [signal] : [])];
    answer = await fetch(path, { signal: AbortSignal.any(limits), headers: { Accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(String(error.message), 0);
  }
  if (answer.ok) return answer.json();
  const text = await answer.text();
  let message = text;
  try {
    message = JSON.parse(text).error ?? text;
  } catch {
    // A refusal in plain text.
  }
  throw new ApiError(message, answer.status);
}

export const getRuns = (signal) => getJson("/api/runs", signal);
export const getRun = (id, signal) => getJson(`/api/runs/${encodeURIComponent(id)}`, signal);
export const getLog = (id, lines, signal) => getJson(`/api/runs/${encodeURIComponent(id)}/log?lines=${lines}`, signal);

/**
 * The points of each run and metric, {series: [{run, metric, x, y, count}], pending: [runs that are still read]}. `range` is [from, to] on the axis, or null.
 */
export async function getSeries(runs, metrics, axis, range, points, signal) {
  const query = new URLSearchParams({ x: axis, points });
  for (const run of runs) query.append("run", run);
  for (const metric of metrics) query.append("metric", metric);
  if (range) {
    query.set("from", range[0]);
    query.set("to", range[1]);
  }
  const { series, pending = [] } = await getJson(`/api/series?${query}`, signal);
  return { series, pending };
}
