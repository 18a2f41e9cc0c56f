// The server's events: which runs changed. A lost connection is opened again, each time after a longer wait.

const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 30;
/** The server writes a comment every 15 s, which no listener sees; a dead connection shows itself as an error. */

/** Calls `onRuns({version, changed, added, gone})`, and `onState(isOpen, waitSeconds)` when the connection changes. */
export function openStream({ onRuns, onState }) {
  let source = null;
  let wait_s = FIRST_WAIT_S;
  let timer = null;

  function connect() {
    clearTimeout(timer);
    source?.close();
    source = new EventSource("/api/stream");
    source.addEventListener("open", () => {
      wait_s = FIRST_WAIT_S;
      onState(true, 0);
    });
    source.addEventListener("runs", (event) => onRuns(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      source.close();
      onState(false, wait_s);
      timer = setTimeout(connect, wait_s * 1000);
      wait_s = Math.min(LONGEST_WAIT_S, wait_s * 2);
    });
  }

  connect();
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && connect());
  return { retry: connect };
}
