// The page: puts its parts together, loads the runs, and keeps them as the server's events say.

import { getRuns } from "./api.js";
import { makeCharts } from "./charts/charts.js";
import { switchTheme } from "./colours.js";
import { h, soon } from "./dom.js";
import { makeHeader } from "./header.js";
import { listenToKeys, openHelp } from "./keyboard.js";
import { makeRunView } from "./run/view.js";
import { makeStatus } from "./status.js";
import { data, readAddress, setRuns, setView, subscribe, view } from "./store.js";
import { openStream } from "./stream.js";
import { openPicker } from "./table/picker.js";
import { makeTable } from "./table/table.js";
import { t } from "./text.js";

const REFRESH_MS = 400;
const ASK_MS = 30_000; // also without events: a server that hangs closes no stream
const PHONE = matchMedia("(max-width: 719px)");
const OF_TABLE = ["runs", "filter", "sort", "columns", "selected", "layout", "run"];
const OF_CHARTS = [
  "runs",
  "selected",
  "axis",
  "smoothing",
  "log",
  "range",
  "metric",
  "closed",
  "large",
  "layout",
  "run",
];

const status = makeStatus();
const charts = makeCharts({ onFault: status.fault });
const runView = makeRunView({ onFault: status.fault });
const table = makeTable({
  point: (id) => charts.highlight(id),
  narrow: () => PHONE.matches || view.layout !== "table",
});
const header = makeHeader({ table, openPicker, openHelp, switchTheme });
const left = h(
  "section",
  { class: "pane pane-table", "aria-label": t("table.label") },
  header.filterBar,
  table.element,
);
const right = h(
  "section",
  { class: "pane pane-charts", "aria-label": t("layout.charts") },
  charts.element,
  runView.element,
);
document.body.append(header.element, status.banner, h("main", { class: "main" }, left, right), status.live);

let changed = new Set(); // the runs of events that were not dealt with yet
let isLoading = false;

function render(names) {
  const layout = PHONE.matches && view.layout === "both" ? "table" : view.layout;
  document.body.dataset.layout = view.run && layout === "table" ? (PHONE.matches ? "charts" : "both") : layout;
  charts.element.hidden = view.run !== null;
  runView.element.hidden = view.run === null;
  header.render();
  if (OF_TABLE.some((name) => names.has(name))) table.render();
  header.renderCount();
  if (OF_CHARTS.some((name) => names.has(name))) {
    if (view.run === null) charts.render();
    runView.render();
  }
}

/** Loads the runs, and then the points of those that changed. One request at a time. */
async function load() {
  if (isLoading) return;
  isLoading = true;
  const ids = [...changed];
  changed = new Set();
  try {
    const answer = await getRuns();
    const before = data.byId;
    if (ids.length) {
      charts.refresh(ids);
      runView.refresh(ids);
    }
    setRuns(answer);
    status.loaded(answer, before);
  } catch (error) {
    ids.forEach((id) => changed.add(id)); // until the stream is open again, or has more
    status.fault(error);
    isLoading = false;
    return;
  }
  isLoading = false;
  if (changed.size) refresh();
}

const refresh = soon(load, REFRESH_MS);

subscribe(render);
PHONE.addEventListener("change", () => render(new Set(["runs"])));
addEventListener("hashchange", readAddress);
addEventListener("popstate", readAddress);
listenToKeys({ table, charts, focusFilter: header.focusFilter });
readAddress();
render(new Set(["runs"]));
load();
const stream = openStream({
  onRuns(event) {
    for (const id of [...event.changed, ...event.added]) changed.add(id);
    if (!document.hidden) refresh();
  },
  onState(isOpen, wait_s) {
    status.connection(isOpen, wait_s);
    if (isOpen && data.loaded) {
      data.runs.forEach((run) => changed.add(run.id)); // what happened in between was not told
      refresh();
    }
  },
});
status.onRetry(() => {
  stream.retry();
  refresh();
});
setInterval(() => document.hidden || refresh(), ASK_MS);
addEventListener("visibilitychange", () => document.hidden || refresh());
Object.assign(globalThis, { shardtune: { view, data, setView } }); // for the console and for tests
