// One chart: a metric of several runs over each other.

import { canvasColours, colourOf, dashOf } from "../colours.js";
import { h, icon, setText } from "../dom.js";
import { number } from "../format.js";
import { data, setView, view } from "../store.js";
import { t } from "../text.js";
import { smoothed } from "./smoothing.js";
import { describe } from "./summary.js";
import { axisTicks, increments, logTicks, valueTicks } from "./ticks.js";
import { makeTooltip } from "./tooltip.js";

const MOST_RAW = 6; // runs that are drawn with their unsmoothed curve behind
const FEW = 60; // points of a curve that are marked each
const TOO_FEW = 25; // to be smoothed: those of evaluations, which are means already
const NEAR_PX = 10;
const HEIGHTS = { usual: 210, large: 420 };

/** A chart of `metric`. `series` is where its points are; `runs()` names the runs; `title` is its heading. */
export function makePanel({ metric, title, series, runs, sync = "panels" }) {
  const value = h("span", { class: "panel-value" });
  const enlarge = h(
    "button",
    {
      type: "button",
      class: "icon-button",
      "aria-label": t("panel.enlarge", { metric }),
      title: t("panel.enlarge", { metric }),
      onclick: () => setView({ large: view.large === metric ? "" : metric }),
    },
    icon("expand"),
  );
  const plot = h("div", { class: "plot", role: "img" });
  const note = h("p", { class: "plot-note" });
  const element = h(
    "section",
    { class: "panel", "aria-label": metric, "data-metric": metric },
    h("header", {}, h("h3", { title: metric }, title), value, enlarge),
    h("div", { class: "plot-place" }, plot, note),
  );
  const tooltip = makeTooltip(metric);
  let chart = null;
  let signature = "";
  let drawn = []; // {id, name, x, y, count} of the runs that have points
  let isVisible = false;

  function draw() {
    if (!isVisible) return;
    if (typeof uPlot === "undefined") {
      setText(note, t("charts.missing"));
      return;
    }
    const ids = runs();
    series.want(metric, ids);
    const known = ids.map((id) => ({ id, points: series.get(metric, id) }));
    const isWaiting = known.some((each) => !each.points);
    if (isWaiting && chart && known.every((each) => !each.points)) return; // the old curves stay until the new ones come
    drawn = known.filter((each) => each.points?.x.length).map(prepared);
    setText(note, drawn.length ? "" : isWaiting ? t("charts.loading") : t("charts.nothing"));
    note.hidden = drawn.length > 0;
    element.classList.toggle("has-nothing", !drawn.length && !isWaiting);
    plot.setAttribute("aria-label", describe(metric, view.axis, drawn));
    element.dataset.points = String(drawn.reduce((sum, each) => sum + each.x.length, 0));
    setText(value, drawn.length === 1 ? number(lastOf(drawn[0].y)) : "");
    update();
  }

  function prepared({ id, points }) {
    const y = view.log ? points.y.map((value) => (value > 0 ? value : null)) : points.y;
    return {
      id,
      name: data.byId.get(id)?.name ?? id,
      x: points.x,
      y,
      count: points.count,
      smooth: points.x.length < TOO_FEW ? y : smoothed(points.x, y, view.smoothing),
    };
  }

  function update() {
    const hasRaw = view.smoothing > 0 && drawn.length <= MOST_RAW;
    const next = JSON.stringify([
      drawn.map((each) => [each.id, each.x.length < FEW, colourOf(each.id)]),
      view.axis,
      view.log,
      hasRaw,
      height(),
    ]);
    const points = drawn.length
      ? uPlot.join(drawn.map((each) => (hasRaw ? [each.x, each.y, each.smooth] : [each.x, each.smooth])))
      : [[]];
    if (next !== signature || !chart) {
      chart?.destroy();
      plot.replaceChildren();
      plot.style.height = `${height()}px`;
      chart = drawn.length ? new uPlot(options(hasRaw), points, plot) : null;
      signature = next;
      return;
    }
    chart.setData(points);
  }

  const height = () => (view.large === metric ? HEIGHTS.large : HEIGHTS.usual);

  function options(hasRaw) {
    const colours = canvasColours();
    const curves = drawn.flatMap((each) => curvesOf(each, hasRaw));
    const axis = {
      stroke: colours.text,
      font: "11px system-ui, sans-serif",
      grid: { stroke: colours.grid, width: 1 },
      ticks: { stroke: colours.axis, size: 4, width: 1 },
    };
    return {
      width: Math.max(200, plot.clientWidth),
      height: height(),
      padding: [10, view.axis === "time" ? 28 : 14, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: false, range: (u, low, high) => view.range ?? widened(low, high) },
        y: { distr: view.log ? 3 : 1 },
      },
      axes: [
        {
          ...axis,
          size: 26,
          gap: 4,
          space: 70,
          incrs: increments(view.axis),
          values: (u, splits) => axisTicks(view.axis)(splits),
        },
        { ...axis, size: 50, gap: 4, space: 36, values: (u, splits) => (view.log ? logTicks : valueTicks)(splits) },
      ],
      cursor: {
        sync: { key: sync, scales: ["x", null], setSeries: false },
        drag: { x: true, y: false, setScale: false, dist: 4 },
        focus: { prox: 24 },
        points: { size: 6 },
        dataIdx: nearest,
        bind: { dblclick: () => () => setView({ range: null }) },
      },
      focus: { alpha: 0.25 },
      series: [{}, ...curves],
      hooks: {
        setSelect: [zoom],
        setCursor: [(u) => tooltip.show(u, drawn, hasRaw ? 2 : 1)],
      },
    };
  }

  /** uPlot's series of a run: its smoothed curve, behind it the raw one in a pale color. */
  function curvesOf(each, hasRaw) {
    const stroke = colourOf(each.id);
    const curve = {
      label: each.id,
      stroke,
      width: 1.6,
      dash: dashOf(each.id),
      points: { show: each.x.length < FEW, size: each.x.length === 1 ? 7 : 5, fill: stroke },
    };
    const raw = { ...curve, stroke: `${stroke}55`, width: 1, dash: [], points: { show: false } };
    return hasRaw ? [raw, curve] : [curve];
  }

  /** The point of a curve that is nearest to the cursor (the runs' points need not lie at the same x); null beside it. */
  function nearest(u, number, index, x) {
    const values = u.data[number];
    if (values[index] !== undefined && values[index] !== null) return index;
    const own = number > 0 && drawn.find((each) => each.id === u.series[number].label);
    const tolerance = NEAR_PX * Math.abs(u.posToVal(1, "x") - u.posToVal(0, "x"));
    if (!own || x < own.x[0] - tolerance || x > own.x.at(-1) + tolerance) return null;
    for (let far = 1; far < values.length; far += 1) {
      for (const near of [index - far, index + far])
        if (values[near] !== undefined && values[near] !== null) return near;
    }
    return null;
  }

  function zoom(u) {
    const { left, width } = u.select;
    if (width < 5) return;
    const range = [u.posToVal(left, "x"), u.posToVal(left + width, "x")].map((value) => Number(value.toPrecision(7)));
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (range[0] < range[1]) setView({ range });
  }

  /** Makes the curve of this run stand out, or none. */
  function highlight(id) {
    if (!chart) return;
    const index = id === null ? null : chart.series.findLastIndex((each) => each.label === id);
    chart.setSeries(index === -1 ? null : index, { focus: true }, false);
  }

  return {
    element,
    metric,
    draw,
    highlight,
    show(visible) {
      isVisible = visible;
      if (visible) draw();
    },
    resize() {
      if (chart && Math.abs(chart.width - plot.clientWidth) > 1)
        chart.setSize({ width: plot.clientWidth, height: height() });
    },
    remove() {
      chart?.destroy();
      tooltip.hide();
      element.remove();
    },
  };
}

const widened = (low, high) => (low === null ? [0, 1] : low === high ? [low - 1, high + 1] : [low, high]);
const lastOf = (values) => values.findLast((value) => value !== null);
