// The bar at the top, and the one above the table with the filter.

import { h, iconButton, setText } from "./dom.js";
import { suggestions } from "./filter.js";
import { count } from "./format.js";
import { LAYOUTS } from "./hash.js";
import { data, setView, view } from "./store.js";
import { stateMark, stateName } from "./table/columns.js";
import { switchLanguage, t } from "./text.js";

const STATES = ["running", "waiting", "queued", "new", "crashed", "unreadable", "stopped", "finished"];

export function makeHeader({ table, openPicker, openHelp, switchTheme }) {
  const root = h("span", { class: "root" });
  const states = h("div", { class: "states", role: "group", "aria-label": t("header.states") });
  const layouts = LAYOUTS.map((layout) =>
    h(
      "button",
      {
        type: "button",
        "data-layout": layout,
        onclick: () => setView({ layout, run: layout === "table" ? null : view.run }),
      },
      t(`layout.${layout}`),
    ),
  );
  const element = h(
    "header",
    { class: "top" },
    h("h1", { class: "word" }, "shardtune"),
    root,
    states,
    h(
      "div",
      { class: "top-right" },
      h("div", { class: "segments", role: "group", "aria-label": t("header.layout") }, layouts),
      h("span", { class: "live-dot", title: t("header.live") }),
      h(
        "button",
        {
          type: "button",
          class: "icon-button text",
          title: t("header.language"),
          "aria-label": t("header.language"),
          onclick: switchLanguage,
        },
        t("header.other_language"),
      ),
      iconButton("theme", t("header.theme"), switchTheme),
      h(
        "button",
        {
          type: "button",
          class: "icon-button text",
          title: t("help.title"),
          "aria-label": t("help.title"),
          onclick: openHelp,
        },
        "?",
      ),
    ),
  );

  const filter = h("input", {
    type: "search",
    class: "filter",
    placeholder: t("filter.placeholder"),
    "aria-label": t("filter.label"),
    list: "filters",
    spellcheck: "false",
    oninput: () => setView({ filter: filter.value }),
  });
  const list = h("datalist", { id: "filters" });
  const shown = h("span", { class: "shown", role: "status" });
  const filterBar = h(
    "div",
    { class: "filter-bar" },
    filter,
    list,
    shown,
    iconButton("columns", t("columns.title"), openPicker, { class: "icon-button pick-columns" }),
  );
  filter.addEventListener("focus", () =>
    list.replaceChildren(...suggestions(data.recipeKeys, data.runs).map((value) => h("option", { value }))),
  );

  function render() {
    setText(root, data.root);
    root.title = data.root;
    for (const button of layouts)
      button.setAttribute("aria-pressed", String(button.dataset.layout === document.body.dataset.layout));
    if (document.activeElement !== filter) filter.value = view.filter;
    const counts = new Map();
    for (const run of data.runs) counts.set(run.state, (counts.get(run.state) ?? 0) + 1);
    const signature = JSON.stringify([[...counts], view.filter]);
    if (states.dataset.signature === signature) return;
    states.dataset.signature = signature;
    states.replaceChildren(
      ...STATES.filter((state) => counts.has(state)).map((state) => stateButton(state, counts.get(state))),
    );
    document.title = counts.get("running") ? t("title.running", { n: counts.get("running") }) : "shardtune";
  }

  /** How many runs of a state there are; pressed, the table shows only those. */
  function stateButton(state, number) {
    const word = `state=${state}`;
    const words = view.filter.split(/\s+/).filter(Boolean);
    const isOn = words.includes(word);
    const others = words.filter((each) => !each.startsWith("state="));
    return h(
      "button",
      {
        type: "button",
        class: "state-count",
        "aria-pressed": String(isOn),
        title: stateName(state),
        onclick: () => setView({ filter: (isOn ? others : [...others, word]).join(" ") }),
      },
      stateMark(state),
      count(number),
    );
  }

  /** What the filter left, or which of its keys there is not. */
  function renderCount() {
    const unknown = table.unknown();
    shown.classList.toggle("wrong", unknown.length > 0);
    const [some, all] = [table.shown().length, data.runs.length];
    setText(
      shown,
      unknown.length
        ? t("filter.unknown", { key: unknown[0] })
        : some === all
          ? t("filter.all", { n: count(all) })
          : t("filter.some", { n: count(some), all: count(all) }),
    );
  }

  return { element, filterBar, render, renderCount, focusFilter: () => filter.focus() };
}
