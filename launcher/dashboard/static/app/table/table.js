// The table of runs. Of thousands of rows only those in view are in the document.

import { assign } from "../colours.js";
import { h, icon, setText } from "../dom.js";
import { parseFilter } from "../filter.js";
import { encode } from "../hash.js";
import { data, MOST_COMPARED, selection, setView, toggleSelected, view } from "../store.js";
import { t } from "../text.js";
import { columnsOf, columnGroups, usualColumns } from "./columns.js";
import { fillRow, makeRow } from "./row.js";
import { nextSort, sorted } from "./sorting.js";

const MORE_ROWS = 8; // above and below what is in view

/** The table, and what the keyboard does with it. `point(id or null)` is called for the run under the pointer. */
export function makeTable({ point, narrow }) {
  const head = h("tr", { "aria-rowindex": "1" });
  const [above, below] = [spacer(), spacer()];
  const body = h("tbody", {}, above, below);
  const table = h(
    "table",
    { class: "runs", role: "grid", "aria-label": t("table.label"), "aria-multiselectable": "true", tabindex: "0" },
    h("thead", {}, head),
    body,
  );
  const all = h("input", {
    type: "checkbox",
    class: "pick",
    "aria-label": t("table.all", { n: MOST_COMPARED }),
    title: t("table.all", { n: MOST_COMPARED }),
    onchange: () => setView({ selected: all.checked ? shown.slice(0, MOST_COMPARED).map((run) => run.id) : [] }),
  });
  const empty = h("p", { class: "empty", hidden: true });
  const scroller = h("div", { class: "table-scroll" }, table, empty);
  const actions = { toggle: toggleSelected, open, focus, point };
  let rows = new Map(); // id -> a row that was made
  let columns = [];
  let shown = []; // the runs that match, in order
  let active = null; // the id of the run that the keyboard is at
  let unknown = [];

  scroller.addEventListener("scroll", () => requestAnimationFrame(place), { passive: true });
  new ResizeObserver(() => requestAnimationFrame(place)).observe(scroller);

  function render() {
    const isNarrow = narrow();
    table.classList.toggle("narrow", isNarrow);
    const keys = view.columns ?? usualColumns(isNarrow);
    const next = columnsOf(isNarrow && view.columns ? narrowed(view.columns) : keys);
    if (next.map((column) => column.key).join() !== columns.map((column) => column.key).join()) rows = new Map();
    columns = next;
    const filter = parseFilter(
      view.filter,
      data.recipeKeys,
      data.metrics.map((metric) => metric.name),
    );
    unknown = filter.unknown;
    const known = columnGroups()
      .flatMap(([, group]) => group)
      .concat(NAME);
    shown = sorted(data.runs.filter(filter.matches), view.sort, known);
    assign(selection());
    renderHead();
    place();
    empty.hidden = shown.length > 0;
    setText(
      empty,
      data.loaded ? (data.runs.length ? t("table.none") : t("table.empty", { root: data.root })) : t("table.loading"),
    );
  }

  function renderHead() {
    const columnHead = (column, className) => {
      const direction = view.sort === column.key ? "ascending" : view.sort === `-${column.key}` ? "descending" : "none";
      const label = h(
        "button",
        { type: "button", onclick: () => setView({ sort: nextSort(view.sort, column.key) }) },
        h("span", {}, column.title),
        icon("chevron"),
      );
      return h(
        "th",
        { scope: "col", class: className, "aria-sort": direction, title: column.name ?? column.title },
        label,
      );
    };
    const signature = JSON.stringify([columns.map((column) => column.key), view.sort]);
    if (head.dataset.signature === signature) return;
    head.dataset.signature = signature;
    head.replaceChildren(
      h("td", { class: "pick-cell" }, all),
      columnHead(NAME, "run"),
      ...columns.map((column) => columnHead(column, column.isNumber ? "number" : "words")),
    );
    table.setAttribute("aria-colcount", String(columns.length + 2));
  }

  /** Puts the rows that are in view into the document. */
  function place() {
    const height = rowHeight();
    const first = Math.max(0, Math.floor(scroller.scrollTop / height) - MORE_ROWS);
    const end = Math.min(shown.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + MORE_ROWS);
    const chosen = new Set(selection());
    const visible = shown.slice(first, end);
    all.checked = shown.length > 0 && shown.slice(0, MOST_COMPARED).every((run) => chosen.has(run.id));
    const made = visible.map((run, index) => {
      if (!rows.has(run.id)) rows.set(run.id, makeRow(run.id, columns, actions));
      const each = rows.get(run.id);
      const address = `#${encode({ ...view, run: run.id })}`;
      fillRow(each, run, {
        number: first + index,
        isSelected: chosen.has(run.id),
        isActive: run.id === (active ?? view.run),
        address,
      });
      return each.row;
    });
    const present = [...body.children].slice(1, -1);
    if (present.length !== made.length || made.some((row, index) => row !== present[index])) {
      body.replaceChildren(above, ...made, below);
    }
    above.firstChild.style.height = `${first * height}px`;
    below.firstChild.style.height = `${(shown.length - end) * height}px`;
    table.setAttribute("aria-rowcount", String(shown.length + 1));
    if (active && visible.some((run) => run.id === active))
      table.setAttribute("aria-activedescendant", `run-${active}`);
    else table.removeAttribute("aria-activedescendant");
  }

  function rowHeight() {
    return table.classList.contains("narrow") ? 46 : 34; // as in table.css
  }

  /** Moves the keyboard's row by so many rows, and scrolls it into view. */
  function move(by) {
    if (!shown.length) return;
    const now = shown.findIndex((run) => run.id === (active ?? view.run));
    const next = Math.min(shown.length - 1, Math.max(0, now < 0 ? 0 : now + by));
    focus(shown[next].id);
    const [top, height] = [next * rowHeight(), rowHeight()];
    const visible = scroller.clientHeight - head.offsetHeight;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + height > scroller.scrollTop + visible) scroller.scrollTop = top + height - visible;
    place();
  }

  function focus(id) {
    active = id;
    point(id);
    place();
  }

  function open(id) {
    active = id;
    setView({ run: id, layout: view.layout === "table" ? "both" : view.layout }, { push: true });
  }

  return {
    element: scroller,
    render,
    move,
    open: () => active && open(active),
    toggle: () => active && toggleSelected(active),
    shown: () => shown,
    unknown: () => unknown,
  };
}

const NAME = { key: "name", title: t("column.name"), isNumber: false, sortBy: (run) => run.name };
const narrowed = (keys) => keys.filter((key) => /^(last|best|recipe):/.test(key)).slice(0, 2);
const spacer = () => h("tr", { "aria-hidden": "true", class: "spacer" }, h("td", {}));
