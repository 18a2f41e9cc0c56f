// The view as the part of the address after #, so that a link reproduces it. What is as usual is left out.

export const AXES = ["step", "tokens", "time", "epoch"];
export const LAYOUTS = ["both", "table", "charts"];

export const DEFAULTS = {
  layout: "both",
  run: null, // the id of the run whose own view is open
  selected: null, // ids of the compared runs; null: the newest ones
  filter: "",
  sort: "", // the key of a column, with - before it for descending
  columns: null, // keys of columns; null: the usual ones
  axis: "step",
  smoothing: 0,
  log: false,
  range: null, // [from, to] on the axis
  metric: "", // what is searched in the names of metrics
  closed: [], // sections of charts that are closed
  large: "", // the metric whose chart is enlarged
};

const list = {
  read: (value) => (value ? value.split(",").map((each) => each.replaceAll("%2C", ",").replaceAll("%25", "%")) : []),
  write: (values) => values.map((each) => each.replaceAll("%", "%25").replaceAll(",", "%2C")).join(","),
};
const text = { read: String, write: String };
const oneOf = (values) => ({ read: (value) => (values.includes(value) ? value : values[0]), write: String });
const CODECS = {
  layout: oneOf(LAYOUTS),
  run: text,
  selected: list,
  filter: text,
  sort: text,
  columns: list,
  axis: oneOf(AXES),
  smoothing: { read: (value) => Math.min(0.99, Math.max(0, Number(value) || 0)), write: String },
  log: { read: (value) => value === "1", write: (value) => (value ? "1" : "0") },
  range: { read: readRange, write: (value) => value.join("..") },
  metric: text,
  closed: list,
  large: text,
};

function readRange(value) {
  const ends = value.split("..").map(Number);
  return ends.length === 2 && ends.every(Number.isFinite) && ends[0] < ends[1] ? ends : null;
}

export function encode(view) {
  const query = new URLSearchParams();
  for (const [name, codec] of Object.entries(CODECS)) {
    if (JSON.stringify(view[name]) !== JSON.stringify(DEFAULTS[name])) query.set(name, codec.write(view[name]));
  }
  return query.toString();
}

/** The whole view that a hash stands for; what it does not name, or names wrongly, is as usual. */
export function decode(hash) {
  const query = new URLSearchParams(hash);
  const view = { ...DEFAULTS };
  for (const [name, codec] of Object.entries(CODECS)) if (query.has(name)) view[name] = codec.read(query.get(name));
  return view;
}
