// The charts of the compared runs: a section for each group of metrics, a panel for each metric, drawn when in view.

import { assign, colourOf } from "../colours.js";
import { h, icon, iconButton, setText } from "../dom.js";
import { AXES } from "../hash.js";
import { data, selection, setView, toggleSelected, view } from "../store.js";
import { t } from "../text.js";
import { makePanel } from "./panel.js";
import { makeSeries } from "./series.js";

const GROUPS = ["train", "eval", "retention", "perf", "memory", "ranks", "data"];
const MOST_CHIPS = 12;

/** The charts. `onFault(error)` is told of requests that failed. */
export function makeCharts({ onFault }) {
  const panels = new Map(); // metric -> panel
  const sections = new Map(); // group -> {element, grid, …}
  const series = makeSeries({
    onArrival: (metrics) => metrics.forEach((metric) => panels.get(metric)?.draw()),
    onFault,
  });
  const bar = makeToolbar();
  const chips = h("div", { class: "chips", role: "list", "aria-label": t("charts.compared") });
  const place = h("div", { class: "sections" });
  const empty = h("p", { class: "empty", hidden: true });
  const element = h("div", { class: "charts-scroll", tabindex: "-1" }, bar.element, chips, empty, place);
  const seen = new IntersectionObserver(
    (entries) => entries.forEach((entry) => panels.get(entry.target.dataset.metric)?.show(entry.isIntersecting)),
    { root: element, rootMargin: "200px 0px" },
  );
  new ResizeObserver(() => requestAnimationFrame(() => panels.forEach((panel) => panel.resize()))).observe(place);
  addEventListener("theme", () => panels.forEach((panel) => panel.draw()));

  function render() {
    const ids = selection();
    assign(ids);
    series.setScope(view.axis, view.range, ids.length);
    bar.render();
    renderChips(ids);
    arrange();
    panels.forEach((panel) => panel.draw());
    const isEmpty = data.loaded && (!ids.length || !place.querySelector(".panel"));
    empty.hidden = !isEmpty;
    setText(empty, isEmpty ? (ids.length ? t("charts.no_metric") : t("charts.no_run")) : "");
  }

  /** Makes panels of new metrics, removes those of metrics that are gone or not searched for. */
  function arrange() {
    const wanted = data.metrics.filter((metric) => metric.name.toLowerCase().includes(view.metric.toLowerCase()));
    const names = new Set(wanted.map((metric) => metric.name));
    for (const [name, panel] of panels) {
      if (names.has(name)) continue;
      seen.unobserve(panel.element);
      panel.remove();
      panels.delete(name);
    }
    for (const group of GROUPS)
      arrangeSection(
        group,
        wanted.filter((metric) => metric.group === group),
      );
  }

  function arrangeSection(group, metrics) {
    if (!sections.has(group)) sections.set(group, makeSection(group, place));
    const section = sections.get(group);
    section.element.hidden = !metrics.length;
    const isClosed = view.closed.includes(group) && !view.metric;
    section.button.setAttribute("aria-expanded", String(!isClosed));
    section.grid.hidden = isClosed;
    setText(section.count, String(metrics.length));
    let before = null;
    for (const { name } of metrics) {
      if (!panels.has(name)) {
        const panel = makePanel({ metric: name, title: name.replace(`${group}/`, ""), series, runs: selection });
        panels.set(name, panel);
        seen.observe(panel.element);
      }
      const { element: own } = panels.get(name);
      own.classList.toggle("large", view.large === name);
      const place = before ? before.nextSibling : section.grid.firstChild;
      if (place !== own) section.grid.insertBefore(own, place);
      before = own;
    }
  }

  function renderChips(ids) {
    const signature = JSON.stringify([ids.map((id) => [id, data.byId.get(id)?.name, colourOf(id)])]);
    if (chips.dataset.signature === signature) return;
    chips.dataset.signature = signature;
    const shown = ids.slice(0, MOST_CHIPS).map((id) => {
      const { name } = data.byId.get(id);
      return h(
        "span",
        { class: "chip", role: "listitem", onmouseenter: () => highlight(id), onmouseleave: () => highlight(null) },
        h("span", { class: "swatch", style: { background: colourOf(id) } }),
        h(
          "button",
          { type: "button", class: "chip-name", title: name, onclick: () => setView({ run: id }, { push: true }) },
          name,
        ),
        iconButton("close", t("charts.remove", { name }), () => toggleSelected(id)),
      );
    });
    const more =
      ids.length > MOST_CHIPS ? [h("span", { class: "chip plain" }, t("more", { n: ids.length - MOST_CHIPS }))] : [];
    const clear = view.selected?.length
      ? [h("button", { type: "button", class: "link", onclick: () => setView({ selected: null }) }, t("charts.usual"))]
      : [];
    chips.replaceChildren(...shown, ...more, ...clear);
  }

  function highlight(id) {
    panels.forEach((panel) => panel.highlight(id));
  }

  return {
    element,
    render,
    highlight,
    /** These runs have new lines: charts in view ask for them. */
    refresh(ids) {
      series.changed(ids);
      panels.forEach((panel) => panel.draw());
    },
    focusSearch: () => bar.search.focus(),
  };
}

/** A section that can be closed, with a grid of panels. */
function makeSection(group, place) {
  const count = h("span", { class: "count" });
  const grid = h("div", { class: "panels" });
  const button = h(
    "button",
    { type: "button", class: "section-button", onclick: toggle },
    icon("chevron"),
    t(`group.${group}`),
    count,
  );
  const element = h("section", { class: "group", "data-group": group }, h("h2", {}, button), grid);
  place.append(element);

  function toggle() {
    const { closed } = view;
    setView({ closed: closed.includes(group) ? closed.filter((other) => other !== group) : [...closed, group] });
  }

  return { element, grid, button, count };
}

/** Axis, smoothing, log scale, search and zoom. */
function makeToolbar() {
  const axes = AXES.map((axis) =>
    h(
      "button",
      { type: "button", "data-axis": axis, onclick: () => setView({ axis, range: null }) },
      t(`axis.${axis}`),
    ),
  );
  const slider = h("input", {
    type: "range",
    min: "0",
    max: "0.99",
    step: "0.01",
    "aria-label": t("charts.smoothing"),
    oninput: () => setView({ smoothing: Number(slider.value) }),
  });
  const amount = h("output", { class: "amount" });
  const log = h(
    "button",
    { type: "button", class: "toggle", onclick: () => setView({ log: !view.log }) },
    t("charts.log"),
  );
  const search = h("input", {
    type: "search",
    class: "metric-search",
    placeholder: t("charts.search"),
    "aria-label": t("charts.search"),
    oninput: () => setView({ metric: search.value }),
  });
  const whole = h(
    "button",
    { type: "button", class: "toggle on", onclick: () => setView({ range: null }) },
    t("charts.whole"),
  );
  const element = h(
    "div",
    { class: "toolbar", role: "toolbar", "aria-label": t("charts.toolbar") },
    h("div", { class: "segments", role: "group", "aria-label": t("charts.axis") }, axes),
    h(
      "label",
      { class: "smoothing", title: t("charts.smoothing_hint") },
      h("span", {}, t("charts.smoothing")),
      slider,
      amount,
    ),
    log,
    whole,
    search,
  );

  function render() {
    for (const button of axes) button.setAttribute("aria-pressed", String(button.dataset.axis === view.axis));
    slider.value = String(view.smoothing);
    setText(amount, view.smoothing ? view.smoothing.toFixed(2) : t("charts.off"));
    log.setAttribute("aria-pressed", String(view.log));
    whole.hidden = !view.range;
    if (document.activeElement !== search) search.value = view.metric;
  }

  return { element, render, search };
}
