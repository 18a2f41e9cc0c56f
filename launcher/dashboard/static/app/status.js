// Whether the server answers, in a banner where it does not; and changes of states, for screen readers.

import { h, setText } from "./dom.js";
import { timeOfDay } from "./format.js";
import { stateName } from "./table/columns.js";
import { t } from "./text.js";

const MOST_ANNOUNCED = 3;

export function makeStatus() {
  const text = h("span", {});
  const retry = h("button", { type: "button", class: "button" }, t("server.retry"));
  const banner = h("div", { class: "banner", role: "alert", hidden: true }, text, retry);
  const live = h("div", { class: "unseen", "aria-live": "polite" });
  let lastTime = null; // of the newest answer, by this machine's clock
  let isOpen = true;
  let isRefused = false;

  function say(message) {
    setText(text, message);
    banner.hidden = !message;
    document.body.dataset.connection = message ? "lost" : "open";
  }

  const asOf = () => (lastTime ? t("server.as_of", { time: timeOfDay(lastTime) }) : "");

  return {
    banner,
    live,
    onRetry: (action) => retry.addEventListener("click", action),
    connection(open, wait_s) {
      isOpen = open;
      if (open) say("");
      else if (!isRefused) say(`${t("server.gone", { n: wait_s })} ${asOf()}`);
    },
    /** A request failed: the server refuses, or is gone. */
    fault(error) {
      isRefused = error.status === 401 || error.status === 403;
      if (isRefused) say(t("server.refused"));
      else if (error.status) say(`${t("server.fault")} ${error.message}`);
      else if (isOpen) say(`${t("server.silent")} ${asOf()}`);
    },
    /** The runs were loaded: the banner goes, and runs whose state changed are named. */
    loaded(answer, before) {
      lastTime = Date.now() / 1000;
      isRefused = false;
      if (isOpen) say("");
      const news = answer.runs
        .filter((run) => before.has(run.id) && before.get(run.id).state !== run.state)
        .map((run) => t("live.state", { name: run.name, state: stateName(run.state) }));
      if (news.length) setText(live, news.slice(0, MOST_ANNOUNCED).join(". "));
    },
  };
}
