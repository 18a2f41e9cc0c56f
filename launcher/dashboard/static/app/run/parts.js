// Parts of a run's own view that are tables and lists.

import { h, icon } from "../dom.js";
import { bytes, count, duration, moment, percent, plain } from "../format.js";
import { hasText, t } from "../text.js";

const MOST_RANKS = 16;
const MOST_TEXT = 400;

/** A part with a heading, which the list of parts leads to; nothing without contents. */
export function part(key, ...contents) {
  const filled = contents.flat().filter(Boolean);
  if (!filled.length) return null;
  return h(
    "section",
    { class: "part", "data-part": key, "aria-label": t(`part.${key}`) },
    h("h3", {}, t(`part.${key}`)),
    filled,
  );
}

/** A table of texts. `numbers` are the indices of the columns whose cells are numbers. */
export function table(head, rows, numbers = []) {
  const kind = (index) => (numbers.includes(index) ? "number" : "words");
  return h(
    "div",
    { class: "wide", tabindex: "0", role: "group", "aria-label": head.filter(Boolean).join(", ") },
    h(
      "table",
      { class: "plain" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          head.map((text, index) => h("th", { scope: "col", class: kind(index) }, text)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            row.map((cell, index) => h("td", { class: kind(index) }, cell)),
          ),
        ),
      ),
    ),
  );
}

/** What the run's time went to: a waterfall of causes, the longest first as they come. */
export function timeUse(causes) {
  if (!causes.length) return null;
  let before = 0;
  const rows = causes.map(({ cause, seconds, share }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, hasText(`cause.${cause}`) ? t(`cause.${cause}`) : cause),
      h("td", { class: "meter-cell" }, meter(share, cause === "useful" ? "good" : "lost", (before += share) - share)),
      h("td", { class: "number" }, percent(share)),
      h("td", { class: "number" }, duration(seconds)),
    ),
  );
  return h("table", { class: "meters" }, h("tbody", {}, rows));
}

/** The ranks that the others wait for, the slowest first. */
export function ranks(speeds) {
  if (!speeds.length) return null;
  const slowest = [...speeds].sort((a, b) => b.share - a.share).slice(0, MOST_RANKS);
  const most = Math.max(...slowest.map((each) => each.share), 1e-9);
  const rows = slowest.map(({ rank, host, share }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, t("rank", { rank })),
      h("td", {}, host ?? ""),
      h("td", { class: "meter-cell" }, meter(share / most, "lost")),
      h("td", { class: "number" }, percent(share, 2)),
    ),
  );
  const more =
    speeds.length > MOST_RANKS
      ? h("p", { class: "quiet" }, t("ranks.more", { shown: MOST_RANKS, all: speeds.length }))
      : null;
  return [h("p", { class: "quiet" }, t("ranks.about")), h("table", { class: "meters" }, h("tbody", {}, rows)), more];
}

/** A bar of this share of the width, which begins where that of `before` ends. */
const meter = (share, kind, before = 0) =>
  h(
    "span",
    { class: `meter ${kind}`, "aria-hidden": "true" },
    h("span", {
      style: { width: `${Math.max(0, Math.min(100, 100 * share))}%`, marginLeft: `${Math.min(99, 100 * before)}%` },
    }),
  );

/** Faults and restarts in one list, the newest first. */
export function incidents(faults, restarts) {
  const all = [
    ...faults.map((each) => ({ ...each, kind: "fault" })),
    ...restarts.map((each) => ({ ...each, kind: "restart" })),
  ];
  if (!all.length) return h("p", { class: "quiet" }, t("incidents.none"));
  all.sort((a, b) => (b.time ?? 0) - (a.time ?? 0));
  return h(
    "ul",
    { class: "incidents" },
    all.map(({ kind, time, step, text }) =>
      h(
        "li",
        { class: kind },
        h(
          "span",
          { class: "quiet" },
          [moment(time), step === null || step === undefined ? "" : t("at_step", { step: count(step) })]
            .filter(Boolean)
            .join(" · "),
        ),
        h("span", {}, text),
      ),
    ),
  );
}

export function checkpoints(list) {
  if (!list.length) return null;
  const rows = [...list]
    .sort((a, b) => b.step - a.step)
    .map((each) => [count(each.step), moment(each.time), bytes(each.bytes), each.best ? t("checkpoint.best") : ""]);
  return table([t("column.step"), t("checkpoint.time"), t("checkpoint.size"), ""], rows, [0, 2]);
}

/** The entries of nested objects as [dotted key, value]. */
export function flat(value, prefix = "") {
  if (value === null || value === undefined) return [];
  return Object.entries(value).flatMap(([key, inner]) => {
    if (inner === null) return [];
    const isObject = inner !== null && typeof inner === "object" && !Array.isArray(inner);
    return isObject ? flat(inner, `${prefix}${key}.`) : [[`${prefix}${key}`, inner]];
  });
}

const cut = (text) => (text.length > MOST_TEXT ? `${text.slice(0, MOST_TEXT)}…` : text);

/** Keys and values, as a list of definitions; of long values only their beginning. `nameOf(key)` is what a key is called. */
export function facts(value, nameOf = (key) => key) {
  const entries = flat(value);
  if (!entries.length) return null;
  return h(
    "dl",
    { class: "facts" },
    entries.map(([key, inner]) => h("div", {}, h("dt", {}, nameOf(key)), h("dd", {}, cut(plain(inner))))),
  );
}

/** What is measured of memory and GPUs, in words. */
export const memoryName = (key) => (hasText(`memory.${key}`) ? t(`memory.${key}`) : key);

/** The recipe, with a button that copies it. */
export function recipe(yaml) {
  if (!yaml) return null;
  const done = h("span", { class: "quiet", role: "status" });
  const copy = h(
    "button",
    {
      type: "button",
      class: "button",
      onclick: async () => {
        done.textContent = (await copied(yaml)) ? t("recipe.copied") : t("recipe.not_copied");
      },
    },
    icon("copy"),
    t("recipe.copy"),
  );
  return [
    h("div", { class: "part-buttons" }, copy, done),
    h("pre", { class: "code", tabindex: "0" }, yaml.split("\n").flatMap(yamlLine)),
  ];
}

/** A line of YAML with its key or comment marked. */
function yamlLine(line) {
  const comment = /^\s*#/.test(line);
  const key = /^(\s*(?:- )?)([\w.-]+)(:.*)$/.exec(line);
  if (comment) return [h("span", { class: "yaml-comment" }, line), "\n"];
  return key ? [key[1], h("span", { class: "yaml-key" }, key[2]), `${key[3]}\n`] : [`${line}\n`];
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
