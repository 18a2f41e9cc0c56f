// What keys do, and the dialog that lists them.

import { switchTheme } from "./colours.js";
import { h } from "./dom.js";
import { AXES } from "./hash.js";
import { setView, view } from "./store.js";
import { t } from "./text.js";

const SMOOTHINGS = [0, 0.6, 0.9, 0.97];
const following = (values, value) => values[(values.indexOf(value) + 1) % values.length];

/** The keys, each with the key of its description, in the order of the dialog. */
function bindings({ table, charts, focusFilter }) {
  return [
    ["j", "key.down", () => table.move(1)],
    ["k", "key.up", () => table.move(-1)],
    ["x", "key.select", () => table.toggle()],
    ["Enter", "key.open", () => table.open()],
    ["/", "key.filter", focusFilter],
    ["m", "key.metric", () => charts.focusSearch()],
    ["s", "key.smoothing", () => setView({ smoothing: SMOOTHINGS.find((value) => value > view.smoothing) ?? 0 })],
    ["l", "key.log", () => setView({ log: !view.log })],
    ["a", "key.axis", () => setView({ axis: following(AXES, view.axis), range: null })],
    ["z", "key.whole", () => setView({ range: null })],
    ["v", "key.layout", () => setView({ layout: following(["both", "table", "charts"], view.layout) })],
    ["c", "key.clear", () => setView({ selected: view.selected === null ? [] : null })],
    ["t", "key.theme", switchTheme],
    ["Escape", "key.back", () => setView(view.range ? { range: null } : { run: null })],
    ["?", "key.help", () => openHelp()],
  ];
}

/** Listens for keys, except where something is typed or a dialog is open. */
export function listenToKeys(parts) {
  const keys = new Map(bindings(parts).map(([key, , action]) => [key, action]));
  keys.set("ArrowDown", keys.get("j"));
  keys.set("ArrowUp", keys.get("k"));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { target } = event;
    const isTyping = target.matches?.("input:not([type=checkbox]):not([type=range]), select, textarea");
    if (isTyping) {
      if (event.key === "Escape") target.blur();
      return;
    }
    const isOnControl = target.matches?.("button, a, input, summary");
    if (
      ["Enter", "ArrowDown", "ArrowUp"].includes(event.key) &&
      (isOnControl || (event.key !== "Enter" && !target.closest?.(".table-scroll") && target !== document.body))
    )
      return;
    const action = keys.get(event.key);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

/** Opens the list of keys. */
export function openHelp() {
  const list = bindings({});
  const dialog = h(
    "dialog",
    { class: "dialog", "aria-label": t("help.title"), onclose: () => dialog.remove() },
    h("h2", {}, t("help.title")),
    h(
      "dl",
      { class: "keys" },
      list.map(([key, text]) =>
        h("div", {}, h("dt", {}, h("kbd", {}, key === "Escape" ? "Esc" : key)), h("dd", {}, t(text))),
      ),
    ),
    h("p", { class: "quiet" }, t("help.mouse")),
    h("p", { class: "quiet" }, t("help.filter")),
    h(
      "div",
      { class: "dialog-buttons" },
      h("button", { type: "button", class: "button primary", onclick: () => dialog.close() }, t("close")),
    ),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}
