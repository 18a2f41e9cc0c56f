// The end of a run's log, which follows what is written as long as its last line is in view.

import { getLog } from "../api.js";
import { h, setText } from "../dom.js";
import { t } from "../text.js";

const LINES = 200;
const AT_END_PX = 24;

/** The part of the view with the log of this run: {element, refresh()}. */
export function makeLog(id) {
  const name = h("span", { class: "quiet" });
  const text = h("pre", { class: "code log", tabindex: "0", "aria-label": t("part.log") });
  const element = h(
    "section",
    { class: "part", "data-part": "log", "aria-label": t("part.log") },
    h("h3", {}, t("part.log"), " ", name),
    text,
  );
  let isLoading = false;

  async function refresh() {
    if (isLoading) return;
    isLoading = true;
    try {
      const { file, lines } = await getLog(id, LINES);
      const isAtEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - AT_END_PX;
      setText(name, file ?? "");
      setText(text, lines.length ? lines.join("\n") : t("log.empty"));
      if (isAtEnd) text.scrollTop = text.scrollHeight;
    } catch (error) {
      setText(text, error.message);
    } finally {
      isLoading = false;
    }
  }

  return { element, refresh };
}
