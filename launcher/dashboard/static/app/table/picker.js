// The dialog in which the columns of the table are chosen.

import { h } from "../dom.js";
import { setView, view } from "../store.js";
import { t } from "../text.js";
import { columnGroups, usualColumns } from "./columns.js";

/** Opens the dialog; each tick changes the table at once. */
export function openPicker() {
  const chosen = new Set(view.columns ?? usualColumns(false));
  const search = h("input", {
    type: "search",
    placeholder: t("columns.search"),
    "aria-label": t("columns.search"),
    oninput: narrow,
  });
  const groups = columnGroups()
    .filter(([, columns]) => columns.length)
    .map(([title, columns]) =>
      h(
        "fieldset",
        {},
        h("legend", {}, title),
        columns.map((column) => choice(column)),
      ),
    );
  const dialog = h(
    "dialog",
    { class: "dialog", "aria-label": t("columns.title"), onclose: () => dialog.remove() },
    h("h2", {}, t("columns.title")),
    search,
    h("div", { class: "choices" }, groups),
    h(
      "div",
      { class: "dialog-buttons" },
      h("button", { type: "button", class: "button", onclick: reset }, t("columns.usual")),
      h("button", { type: "button", class: "button primary", onclick: () => dialog.close() }, t("close")),
    ),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  function choice(column) {
    const box = h("input", { type: "checkbox", checked: chosen.has(column.key) });
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(column.key);
      else chosen.delete(column.key);
      setView({ columns: [...chosen] });
    });
    return h("label", { "data-name": column.title.toLowerCase() }, box, column.title);
  }

  function narrow() {
    for (const label of dialog.querySelectorAll("label"))
      label.hidden = !label.dataset.name.includes(search.value.toLowerCase());
  }

  function reset() {
    setView({ columns: null });
    dialog.close();
  }

  document.body.append(dialog);
  dialog.showModal();
}
