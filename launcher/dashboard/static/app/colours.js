// A colour for each compared run, from a palette that colour-blind people tell apart, and the colours of the theme.
//
// Okabe and Ito's palette, with Paul Tol's wine and a gray; on a dark ground lighter, with yellow. Repeated with dashes.

const PALETTE = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#c98a00", "#3b9ad9", "#882255", "#5d6470"],
  dark: ["#4ba3e3", "#f28444", "#2fc79a", "#e29ac4", "#ecb544", "#8fd0ff", "#f3ec78", "#a9b1bd"],
};
const DASHES = [[], [8, 4], [2, 3]];
const NUM_STYLES = PALETTE.light.length * DASHES.length;
const slots = new Map();

/** Gives each of the runs a style, by its id, that none of the others has; one that it has already stays. */
export function assign(ids) {
  const taken = new Map();
  for (const id of new Set(ids)) {
    let slot = slots.get(id);
    if (slot === undefined || (taken.has(slot) && taken.size < NUM_STYLES)) slot = freeSlot(hash(id), taken, ids);
    slots.set(id, slot);
    taken.set(slot, id);
  }
}

function freeSlot(preferred, taken, ids) {
  const held = new Set([...taken.keys(), ...ids.filter((id) => slots.has(id)).map((id) => slots.get(id))]);
  const colours = PALETTE.light.length;
  for (let number = 0; number < NUM_STYLES; number += 1) {
    const round = Math.floor(number / colours);
    const slot = round * colours + ((preferred + number) % colours);
    if (!held.has(slot)) return slot;
  }
  return preferred % NUM_STYLES;
}

function hash(id) {
  let value = 2166136261;
  for (const letter of id) value = Math.imul(value ^ letter.codePointAt(0), 16777619);
  return (value >>> 0) % PALETTE.light.length;
}

export const colourOf = (id) =>
  PALETTE[isDark() ? "dark" : "light"][(slots.get(id) ?? hash(id)) % PALETTE.light.length];
export const dashOf = (id) => DASHES[Math.floor((slots.get(id) ?? 0) / PALETTE.light.length)];

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Switches between light and dark, and remembers it. */
export function switchTheme() {
  const next = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("shardtune.theme", next);
  dispatchEvent(new Event("theme"));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("theme")));

/** Colours of lines and labels on a canvas, which cannot read the style sheet. */
export const canvasColours = () =>
  isDark()
    ? { text: "#9aa3ae", grid: "#252b33", axis: "#39414b" }
    : { text: "#60676f", grid: "#eef0f3", axis: "#d5d9df" };
