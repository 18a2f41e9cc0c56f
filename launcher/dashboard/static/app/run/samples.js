// Samples of the model's answers: each input once, with its answers at two steps beside its reference.

import { h } from "../dom.js";
import { count, plain } from "../format.js";
import { t } from "../text.js";

const KNOWN = ["step", "source", "target", "output", "split", "row"];

/** The table of samples with a choice of the two steps; null without samples. */
export function samples(all) {
  if (!all.length) return null;
  const steps = [...new Set(all.map((sample) => sample.step))].sort((a, b) => a - b);
  const [before, after] = [
    choice(t("samples.before"), steps, steps[0]),
    choice(t("samples.after"), steps, steps.at(-1)),
  ];
  const place = h("div", { class: "samples" });
  before.select.addEventListener("change", fill);
  after.select.addEventListener("change", fill);

  function fill() {
    const [first, second] = [Number(before.select.value), Number(after.select.value)];
    const later = all.filter((sample) => sample.step === second);
    const earlier = new Map(all.filter((sample) => sample.step === first).map((sample) => [keyOf(sample), sample]));
    place.replaceChildren(
      ...later.map((sample) => card(sample, first === second ? null : earlier.get(keyOf(sample)), first, second)),
    );
  }

  fill();
  return steps.length > 1 ? [h("div", { class: "part-buttons" }, before.label, after.label), place] : place;
}

const keyOf = (sample) => JSON.stringify([sample.split, sample.row, sample.source]);

function choice(title, steps, value) {
  const select = h(
    "select",
    {},
    steps.map((step) => h("option", { value: step, selected: step === value }, t("at_step", { step: count(step) }))),
  );
  return { select, label: h("label", {}, `${title} `, select) };
}

function card(sample, earlier, first, second) {
  const line = (title, text, kind = "") =>
    h("div", { class: `sample-line ${kind}` }, h("dt", {}, title), h("dd", {}, plain(text)));
  const more = Object.keys(sample)
    .filter((key) => !KNOWN.includes(key))
    .map((key) => line(key, sample[key]));
  const isRight = sample.target !== undefined && sample.target !== null && sample.output === sample.target;
  return h(
    "dl",
    { class: "sample" },
    line(t("samples.source"), sample.source),
    sample.target === undefined || sample.target === null ? null : line(t("samples.target"), sample.target, "target"),
    earlier ? line(t("at_step", { step: count(first) }), earlier.output, "earlier") : null,
    line(t("at_step", { step: count(second) }), sample.output, isRight ? "right" : ""),
    more,
  );
}
