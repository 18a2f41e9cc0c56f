// One row of the table: made once, then only what differs is written.

import { colourOf } from "../colours.js";
import { h, setText } from "../dom.js";
import { count, duration } from "../format.js";
import { t } from "../text.js";
import { fillBar, progressBar, stateMark, stateName } from "./columns.js";

/** A row for the run with this id. `actions` has toggle(id), open(id) and point(id or null). */
export function makeRow(id, columns, actions) {
  const check = h("input", { type: "checkbox", class: "pick", tabindex: "-1", onchange: () => actions.toggle(id) });
  const mark = h("span", { class: "mark" });
  const link = h("a", { class: "name", tabindex: "-1" });
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    actions.open(id);
  });
  const bar = progressBar();
  const note = h("span", { class: "note" });
  const cells = columns.map((column) => h("td", { class: column.isNumber ? "number" : "words" }));
  const row = h(
    "tr",
    { id: `run-${id}`, onmouseenter: () => actions.point(id), onmouseleave: () => actions.point(null) },
    h("td", { class: "pick-cell" }, check),
    h(
      "th",
      { scope: "row", class: "run" },
      h("div", { class: "run-line" }, mark, link),
      h("div", { class: "run-note" }, bar, note),
    ),
    cells,
  );
  row.addEventListener("click", (event) => event.target.closest("a, input") || actions.focus(id));
  return { row, check, mark, link, bar, note, cells, columns, state: null };
}

/** Writes what the run has become. */
export function fillRow(made, run, { number, isSelected, isActive, address }) {
  const { row, check, link, cells, columns } = made;
  row.setAttribute("aria-rowindex", String(number + 2)); // the head is row 1
  row.setAttribute("aria-selected", String(isSelected));
  row.classList.toggle("active", isActive);
  check.checked = isSelected;
  check.setAttribute("aria-label", t("table.compare", { name: run.name }));
  check.style.setProperty("--run", isSelected ? colourOf(run.id) : "");
  setText(link, run.name);
  link.title = run.why ? `${run.path}\n${run.why}` : run.path;
  link.href = address;
  if (made.state !== run.state) {
    made.mark.replaceChildren(stateMark(run.state));
    made.state = run.state;
  }
  fillBar(made.bar, run);
  setText(made.note, noteOf(run));
  made.bar.hidden = run.step === null;
  columns.forEach((column, index) => {
    if (column.fill) column.fill(cells[index], run);
    else setText(cells[index], column.text(run));
    if (column.hint) cells[index].title = column.hint(run);
  });
}

/** The second line of a narrow row: how far it is, and the time that is left or the state. */
function noteOf(run) {
  const steps =
    run.step === null
      ? ""
      : run.state === "finished"
        ? t("note.steps", { step: count(run.step) })
        : t("at_step", { step: count(run.step) });
  const state = run.why ? `${stateName(run.state)}: ${run.why}` : stateName(run.state);
  const rest =
    run.state === "running" && run.eta_s !== null
      ? t("note.eta", { eta: duration(run.eta_s) })
      : run.state === "finished"
        ? ""
        : state;
  return [steps, rest].filter(Boolean).join(" · ");
}
