// What stands beside the cursor: where it is, and the value of each run there.

import { colourOf } from "../colours.js";
import { h } from "../dom.js";
import { duration, number } from "../format.js";
import { view } from "../store.js";
import { t } from "../text.js";

const MOST_ROWS = 14;
const box = h("div", { class: "tooltip", "aria-hidden": "true", hidden: true });
document.body.append(box);

/** The tooltip of one chart; all charts share one box, which only the chart under the pointer fills. */
export function makeTooltip(metric) {
  return {
    hide() {
      if (box.dataset.metric === metric) box.hidden = true;
    },
    show(u, runs, perRun) {
      if (!u.over.matches(":hover")) return this.hide();
      const { left, top, idxs } = u.cursor;
      if (left < 0) return this.hide();
      const rows = runs.map((run, index) => rowOf(u, run, idxs[(index + 1) * perRun])).filter(Boolean);
      if (!rows.length) return this.hide();
      const near = rows.reduce((a, b) => (Math.abs(b.y - top) < Math.abs(a.y - top) ? b : a));
      rows.sort((a, b) => b.value - a.value);
      const shown = rows.length > MOST_ROWS ? around(rows, rows.indexOf(near)) : rows;
      box.dataset.metric = metric;
      box.replaceChildren(
        h("div", { class: "tooltip-head" }, `${t(`axis.${view.axis}`)} ${place(near.x)}`),
        ...shown.map((row) =>
          h(
            "div",
            { class: row === near ? "tooltip-row near" : "tooltip-row" },
            h("span", { class: "swatch", style: { background: colourOf(row.run.id) } }),
            h("b", {}, number(row.value)),
            h("span", { class: "tooltip-name" }, row.run.name),
          ),
        ),
        rows.length > shown.length
          ? h("div", { class: "tooltip-head" }, t("more", { n: rows.length - shown.length }))
          : "",
      );
      box.hidden = false;
      position(u.over.getBoundingClientRect(), left, top);
    },
  };
}

function rowOf(u, run, index) {
  if (index === null || index === undefined) return null;
  const [x, value] = [u.data[0][index], valueAt(u, run, index)];
  return value === null || value === undefined ? null : { run, x, value, y: u.valToPos(value, "y") };
}

function valueAt(u, run, index) {
  const number = u.series.findLastIndex((each) => each.label === run.id);
  return u.data[number][index];
}

const around = (rows, index) =>
  rows.slice(
    Math.max(0, Math.min(rows.length - MOST_ROWS, index - MOST_ROWS / 2)),
    Math.max(MOST_ROWS, Math.min(rows.length, index + MOST_ROWS / 2)),
  );
const place = (x) => (view.axis === "time" ? duration(x) : number(x));

function position(over, left, top) {
  const [width, height] = [box.offsetWidth, box.offsetHeight];
  const x = over.left + left + 16 + width > innerWidth ? over.left + left - 16 - width : over.left + left + 16;
  const y = Math.min(innerHeight - height - 8, over.top + top + 12);
  box.style.transform = `translate(${Math.round(Math.max(4, x))}px, ${Math.round(Math.max(4, y))}px)`;
}

addEventListener("scroll", () => (box.hidden = true), { capture: true, passive: true });
