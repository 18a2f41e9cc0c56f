// The view of one run: how it stands, its curves, where its time went, what happened to it, its recipe and its log.

import { getRun } from "../api.js";
import { makePanel } from "../charts/panel.js";
import { makeSeries } from "../charts/series.js";
import { assign } from "../colours.js";
import { h, iconButton, setText, soon } from "../dom.js";
import { count, duration, moment, number, percent, short } from "../format.js";
import { scores } from "../scores.js";
import { data, selection, setView, toggleSelected, view } from "../store.js";
import { fillBar, progressBar, stateMark, stateName, stepsText } from "../table/columns.js";
import { t } from "../text.js";
import { makeLog } from "./log.js";
import { checkpoints, facts, incidents, memoryName, part, ranks, recipe, timeUse } from "./parts.js";
import { planned } from "./planned.js";
import { retention } from "./retention.js";
import { samples } from "./samples.js";

const REFRESH_MS = 1000;
const LOG_MS = 3000; // a log may go on without a new step
const GOING_ON = ["running", "waiting", "queued"];
const CHARTS = ["train/loss", "perf/tokens_per_s", "train/grad_norm", "train/lr"];
const MOST_CHARTS = 4;

/** The results without what is in the part on retention. */
const withoutSets = (results) => (results ? { ...results, retention: null } : results);

/** The view of whichever run is open. */
export function makeRunView({ onFault }) {
  const element = h("div", { class: "run-view", tabindex: "-1" });
  let open = null; // {id, head, panels, series, log, parts, signature}

  function render() {
    if (!data.loaded) return;
    if (open?.id !== view.run) start(view.run);
    if (!open) return;
    const run = data.byId.get(open.id);
    if (run) fillHead(run);
    else setText(open.title, t("run.gone", { id: open.id }));
    open.series.setScope(view.axis, view.range, 1);
    arrangeCharts(run);
  }

  function start(id) {
    open?.panels.forEach((panel) => panel.remove());
    open?.seen.disconnect();
    element.replaceChildren();
    open = null;
    if (!id) return;
    assign([...selection(), id]);
    open = makeParts(id);
    element.append(open.header, open.links, open.tiles, open.charts, open.parts, open.log.element);
    element.scrollTop = 0;
    load();
    open.log.refresh();
  }

  function makeParts(id) {
    const title = h("h2", { class: "run-title" }, data.byId.get(id)?.name ?? id);
    const mark = h("span", {});
    const why = h("p", { class: "why" });
    const pick = h("button", { type: "button", class: "toggle", onclick: () => toggleSelected(id) });
    const bar = progressBar();
    const header = h(
      "header",
      { class: "run-header" },
      h(
        "div",
        { class: "run-line" },
        iconButton("back", t("run.back"), () => setView({ run: null }, { push: true })),
        mark,
        title,
        pick,
      ),
      bar,
      why,
    );
    const panels = new Map();
    const series = makeSeries({
      onArrival: (metrics) => metrics.forEach((metric) => panels.get(metric)?.draw()),
      onFault,
    });
    const seen = new IntersectionObserver(
      (entries) => entries.forEach((entry) => panels.get(entry.target.dataset.metric)?.show(entry.isIntersecting)),
      { root: element },
    );
    return {
      id,
      title,
      mark,
      why,
      pick,
      bar,
      header,
      panels,
      series,
      seen,
      links: h("nav", { class: "run-links", "aria-label": t("run.parts") }),
      tiles: h("dl", { class: "tiles" }),
      charts: h("div", { class: "panels" }),
      parts: h("div", {}),
      log: makeLog(id),
    };
  }

  function fillHead(run) {
    setText(open.title, run.name);
    open.title.title = run.path;
    if (open.mark.dataset.state !== run.state) open.mark.replaceChildren(stateMark(run.state));
    open.mark.dataset.state = run.state;
    setText(open.why, run.why ? `${stateName(run.state)}: ${run.why}` : "");
    open.why.hidden = !run.why;
    open.why.dataset.state = run.state;
    const isSelected = selection().includes(run.id);
    open.pick.setAttribute("aria-pressed", String(isSelected));
    setText(open.pick, isSelected ? t("run.compared") : t("run.compare"));
    fillBar(open.bar, run);
    const best = scores(Object.keys(run.best)).map((name) => [
      t("column.best", { name }),
      number(run.best[name].value),
      t("at_step", { step: count(run.best[name].step) }),
    ]);
    const tiles = [
      [t("column.state"), stateName(run.state)],
      [t("column.step"), stepsText(run)],
      [t("column.eta_s"), run.eta_s === null ? "" : duration(run.eta_s)],
      ...best.slice(0, 2),
      [t("column.goodput"), run.goodput === null ? "" : percent(run.goodput)],
      [t("column.mfu"), run.mfu === null ? "" : percent(run.mfu)],
      [t("column.tokens_per_s"), run.tokens_per_s === null ? "" : short(run.tokens_per_s)],
      [t("column.tokens"), run.tokens === null ? "" : short(run.tokens)],
      [t("column.ranks"), run.ranks === null ? "" : count(run.ranks)],
      [t("column.started"), run.started ? moment(run.started) : ""],
      [t("column.model"), run.model ?? ""],
    ].filter(([, text]) => text);
    const signature = JSON.stringify(tiles);
    if (open.tiles.dataset.signature === signature) return;
    open.tiles.dataset.signature = signature;
    open.tiles.replaceChildren(
      ...tiles.map(([name, text, more]) =>
        h("div", {}, h("dt", { title: name }, name), h("dd", { title: text }, text, more ? h("small", {}, more) : "")),
      ),
    );
  }

  /** The few curves that say most about a run; all others are among the charts. */
  function arrangeCharts(run) {
    if (!run) return;
    const known = new Set(Object.keys(run.last));
    const names = [CHARTS[0], ...scores(Object.keys(run.best)), ...CHARTS.slice(1)].filter((name) => known.has(name)).slice(0, MOST_CHARTS);
    for (const metric of names) {
      if (open.panels.has(metric)) continue;
      const panel = makePanel({ metric, title: metric, series: open.series, runs: () => [run.id], sync: "run" });
      open.panels.set(metric, panel);
      open.charts.append(panel.element);
      open.seen.observe(panel.element);
    }
    open.panels.forEach((panel) => panel.element.classList.toggle("large", view.large === panel.metric));
    open.panels.forEach((panel) => panel.draw());
  }

  async function load() {
    const { id } = open;
    try {
      const detail = await getRun(id);
      if (open?.id === id) fillParts(detail);
    } catch (error) {
      if (open?.id === id) onFault(error);
    }
  }

  function fillParts(detail) {
    const signature = JSON.stringify(detail);
    if (open.signature === signature) return;
    open.signature = signature;
    const made = [
      part("retention", retention(detail.retention)),
      part("samples", samples(detail.samples ?? [])),
      part("time", timeUse(detail.time_use ?? [])),
      part("ranks", ranks(detail.rank_speed ?? [])),
      part("incidents", incidents(detail.faults ?? [], detail.restarts ?? [])),
      part("checkpoints", checkpoints(detail.checkpoints ?? [])),
      part("memory", facts({ ...detail.memory, ...detail.gpu }, memoryName)),
      part("plan", planned(detail, data.byId.get(open.id))),
      part("results", facts(withoutSets(detail.results))),
      part("environment", facts(detail.environment)),
      part("recipe", recipe(detail.recipe_yaml)),
    ].filter(Boolean);
    replaceParts(made);
    const keys = [...made.map((each) => each.dataset.part), "log"];
    open.links.replaceChildren(
      ...keys.map((key) =>
        h("button", { type: "button", class: "link", onclick: () => reveal(key) }, t(`part.${key}`)),
      ),
    );
  }

  /** Parts that say the same stay, with what was chosen or scrolled in them. */
  function replaceParts(made) {
    const old = new Map([...open.parts.children].map((each) => [each.dataset.part, each]));
    open.parts.replaceChildren(
      ...made.map((each) => {
        const before = old.get(each.dataset.part);
        return before && before.isEqualNode(each) ? before : each;
      }),
    );
  }

  const reveal = (key) => element.querySelector(`[data-part="${key}"]`)?.scrollIntoView({ block: "start" });

  const reload = soon(() => {
    if (!open) return;
    load();
    open.log.refresh();
  }, REFRESH_MS);
  setInterval(
    () => !document.hidden && GOING_ON.includes(data.byId.get(open?.id)?.state) && open.log.refresh(),
    LOG_MS,
  );
  new ResizeObserver(() => requestAnimationFrame(() => open?.panels.forEach((panel) => panel.resize()))).observe(
    element,
  );
  addEventListener("theme", () => open?.panels.forEach((panel) => panel.draw()));

  return {
    element,
    render,
    /** These runs have new lines. */
    refresh(ids) {
      if (!open || !ids.includes(open.id)) return;
      open.series.changed([open.id]);
      open.panels.forEach((panel) => panel.draw());
      reload();
    },
  };
}
