// The order of the runs in the table.

const STATES = ["running", "waiting", "queued", "new", "crashed", "unreadable", "stopped", "finished"];

/** The runs in the order of a column ("key", or "-key" for descending); without one, what runs first, then the newest. */
export function sorted(runs, sort, columns) {
  const column = columns.find((each) => each.key === sort.replace(/^-/, ""));
  if (!column)
    return [...runs].sort((a, b) => rank(a) - rank(b) || (b.started ?? 0) - (a.started ?? 0) || byName(a, b));
  const sign = sort.startsWith("-") ? -1 : 1;
  return [...runs].sort((a, b) => compare(column.sortBy(a), column.sortBy(b), sign) || byName(a, b));
}

/** What a click on the heading of a column makes of the order: ascending, descending, as usual. */
export function nextSort(sort, key) {
  if (sort === key) return `-${key}`;
  return sort === `-${key}` ? "" : key;
}

const rank = (run) => (run.state === "running" ? 0 : ["waiting", "queued"].includes(run.state) ? 1 : 2);
const byName = (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true });
const isAbsent = (value) => value === null || value === undefined || Number.isNaN(value);

/** Absent values come last in either direction. */
function compare(left, right, sign) {
  if (isAbsent(left) || isAbsent(right)) return Number(isAbsent(left)) - Number(isAbsent(right));
  if (typeof left === "number" && typeof right === "number") return sign * (left - right);
  return sign * String(left).localeCompare(String(right), undefined, { numeric: true });
}
