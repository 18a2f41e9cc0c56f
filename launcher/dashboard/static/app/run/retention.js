// What a run retains of other skills: a table of the sets, and each against the metric that the run learns.

import { h, svg } from "../dom.js";
import { count, number } from "../format.js";
import { t } from "../text.js";
import { valueTicks } from "../charts/ticks.js";
import { table } from "./parts.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [420, 280, 52, 16, 14, 44];
const HUES = 8; // classes in style/run.css
const TICKS = 5;

/** The table and a drawing for each metric that sets have; null without any. */
export function retention(found) {
  if (!found?.sets.length) return null;
  const metrics = [...new Set(found.sets.map((set) => set.metric))];
  const drawings = metrics.map((metric) => tradeOff(found, metric)).filter(Boolean);
  return [summary(found.sets), drawings.length ? h("div", { class: "trade-offs" }, drawings) : null];
}

function summary(sets) {
  const rows = sets.map((set, index) => [
    h("span", { class: `set-name hue-${index % HUES}` }, h("span", { class: "swatch-dot" }), h("b", {}, set.name)),
    set.metric + (set.lower_is_better ? ` (${t("retention.lower")})` : ""),
    value(set.before),
    value(set.best),
    value(set.last),
    set.change === null ? "" : h("span", { class: set.is_worse ? "worse" : "kept" }, signed(set.change)),
  ]);
  const head = ["set", "metric", "before", "best", "last", "change"].map((key) => t(`retention.${key}`));
  return table(head, rows, [2, 3, 4, 5]);
}

const value = (each) => (each === null ? "" : number(each));
const signed = (change) => `${change > 0 ? "+" : ""}${number(change)}`;

/** The evaluations of all sets with this metric, in the plane of the target metric and theirs. */
function tradeOff(found, metric) {
  const sets = found.sets.map((set, index) => ({ ...set, index })).filter((set) => set.metric === metric);
  const points = sets.flatMap((set) => set.points);
  if (!points.length) return null;
  const x = scale(points.map((point) => point.target), LEFT, WIDTH - RIGHT);
  const y = scale(points.map((point) => point.value), HEIGHT - BOTTOM, TOP);
  const label = t("retention.against", { metric, target: found.target });
  return h(
    "figure",
    { class: "trade-off" },
    h("figcaption", {}, label),
    svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${label}: ${sets.map(inWords).join("; ")}` },
      axes(x, y, `dev ${found.target}`, metric),
      sets.map((set) => path(set, x, y)),
    ),
    h("p", { class: "quiet" }, t("retention.marks")),
  );
}

/** Places values of this range between two coordinates; `ticks` are round numbers that the range reaches. */
function scale(values, begin, end) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / TICKS));
  const step = power * [1, 2, 5, 10].find((factor) => span / (power * factor) <= TICKS);
  const first = Math.floor(low / step);
  const ticks = Array.from({ length: Math.max(2, Math.ceil(high / step) - first + 1) }, (_, at) => (first + at) * step);
  const [from, to] = [ticks[0], ticks.at(-1)];
  return { ticks, at: (each) => begin + ((each - from) / (to - from)) * (end - begin) };
}

function axes(x, y, xName, yName) {
  const labels = { x: valueTicks(x.ticks), y: valueTicks(y.ticks) };
  return [
    x.ticks.map((tick, at) => [
      svg("line", { class: "grid", x1: x.at(tick), x2: x.at(tick), y1: TOP, y2: HEIGHT - BOTTOM }),
      svg("text", { x: x.at(tick), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, labels.x[at]),
    ]),
    y.ticks.map((tick, at) => [
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y.at(tick), y2: y.at(tick) }),
      svg("text", { x: LEFT - 6, y: y.at(tick) + 4, "text-anchor": "end" }, labels.y[at]),
    ]),
    svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, xName),
    svg("text", { x: 12, y: (TOP + HEIGHT - BOTTOM) / 2, "text-anchor": "middle", class: "upright" }, yName),
  ];
}

/** The way of a set through the plane: hollow where it begins, with a ring where the exported model is. */
function path(set, x, y) {
  const places = set.points.map((point) => [x.at(point.target), y.at(point.value)]);
  const line = places.map((place) => place.map((each) => each.toFixed(1)).join()).join(" ");
  return svg(
    "g",
    { class: `hue-${set.index % HUES}`, "data-set": set.name },
    svg("polyline", { points: line }),
    set.points.map((point, at) => {
      const [cx, cy] = places[at];
      const text = `${set.name}, ${t("at_step", { step: count(point.step) })}: ${number(point.target)}, ${number(point.value)}`;
      const kind = at === 0 && places.length > 1 ? "point first" : "point";
      return [
        svg("circle", { class: kind, cx, cy, r: 3.5 }, svg("title", {}, text)),
        point.is_best ? svg("circle", { class: "ring", cx, cy, r: 7.5 }) : null,
      ];
    }),
  );
}

function inWords({ name, points }) {
  if (!points.length) return name;
  const [first, last] = [points[0], points.at(-1)];
  return `${name} ${number(first.value)} → ${number(last.value)}`;
}
