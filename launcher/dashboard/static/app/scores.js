// By which metrics of evaluations a run is judged first.

const LAST = ["loss", "kl_to_base"]; // the distance from the base model is lowest before training

/** The metrics of dev and test among these, with LAST at the end; what is retained is judged beside them. */
export const scores = (names) =>
  names.filter((name) => !name.startsWith("retention/")).sort((a, b) => place(a) - place(b));

const place = (name) => 1 + LAST.indexOf(name.slice(name.lastIndexOf("/") + 1));
