// Elements from code. Texts become text nodes and attributes, never markup, so that nothing a run holds is executed.

/** An element with these attributes, `on…` listeners, `style` properties and children (elements or texts). */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const PATHS = {
  running: "M5 3.2v9.6l8-4.8z",
  finished: "M2.8 8.4l3.4 3.4 7-7.4",
  crashed: "M4 4l8 8M12 4l-8 8",
  stopped: "M4.2 4.2h7.6v7.6H4.2z",
  waiting: "M8 4v4.2l2.8 1.8M8 1.8a6.2 6.2 0 1 1 0 12.4A6.2 6.2 0 0 1 8 1.8",
  queued: "M3 4.5h10M3 8h10M3 11.5h6",
  unreadable: "M8 3.5v5.5M8 11.6v.9",
  close: "M4 4l8 8M12 4l-8 8",
  expand: "M9.5 2.5h4v4M6.5 13.5h-4v-4M13.5 2.5l-5 5M2.5 13.5l5-5",
  back: "M10 3L5 8l5 5",
  columns: "M2.5 3h11v10h-11zM6.2 3v10M9.8 3v10",
  theme: "M8 2.2a5.8 5.8 0 1 0 0 11.6zM8 2.2a5.8 5.8 0 0 1 0 11.6",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  chevron: "M4 6l4 4 4-4",
};

/** An element of a drawing with these attributes and children (elements or texts). */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** A drawn icon of 16 pixels, which screen readers skip. */
export const icon = (name) =>
  svg(
    "svg",
    { viewBox: "0 0 16 16", class: `icon icon-${name}`, "aria-hidden": "true" },
    svg("path", { d: PATHS[name] ?? PATHS.queued }),
  );

/** A button with an icon, whose label is read out and shown as a tooltip. */
export function iconButton(name, label, onclick, props = {}) {
  return h(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...props },
    icon(name),
  );
}

/** Sets a text only where it differs: no layout, and no reading out, for what stays. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A function that runs `action` once, this many milliseconds after its first call. */
export function soon(action, wait_ms) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      action();
    }, wait_ms);
  };
}
