// Zoom, values and other axes for the charts of a page, which stand there as drawings without this script too.
"use strict";
(() => {
const source = document.getElementById("chart-data");
if (!source) return;
const data = JSON.parse(source.textContent);
const figures = [...document.querySelectorAll("#charts .chart")];
const WIDTH = 440, HEIGHT = 240, LEFT = 58, RIGHT = 14, TOP = 34, BOTTOM = 30, MOST_NAMED = 12;
const PALE = "#9ec5fe";
const AXES = {step: "step", tokens: "tokens", hours: "hours of training", epoch: "epoch"};
const view = {axis: "step", smoothing: 0.9, isLog: false, range: null};
const isCompared = data.axes.length > 1;

const escaped = text => String(text).replace(/[&<>"]/g, c => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}[c]));

function short(value) {
  const size = Math.abs(value), trim = number => String(Number(number.toPrecision(6)));
  if (size >= 1e9) return trim(value / 1e9) + "G";
  if (size >= 1e6) return trim(value / 1e6) + "M";
  if (size >= 1e4) return trim(value / 1e3) + "k";
  return value === 0 || size >= 1e-3 ? trim(value) : value.toExponential(1);
}
const exact = value => value === 0 || Math.abs(value) >= 1e-3 ? Number(value.toPrecision(5)).toLocaleString("en")
                                                              : value.toExponential(3);

// A step as a value of the chosen axis, between the points of the table of its run.
function onAxis(run, step) {
  const table = data.axes[run][view.axis];
  if (view.axis === "step" || !table) return step;
  const [steps, values] = table;
  let low = 0, high = steps.length - 1;
  if (step >= steps[high]) return values[high] * (steps[high] ? step / steps[high] : 1);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle; else high = middle;
  }
  const width = steps[high] - steps[low];
  return values[low] + (width ? (step - steps[low]) / width : 0) * (values[high] - values[low]);
}

function smoothed(y) {
  let average = 0, norm = 0;
  return y.map(value => {
    average = view.smoothing * average + (1 - view.smoothing) * value;
    norm = view.smoothing * norm + (1 - view.smoothing);
    return average / norm;
  });
}

// What is drawn of a chart: lines of points on the chosen axis.
function linesOf(chart) {
  const drawn = [];
  for (const line of chart.lines) {
    const x = line.x.map(step => onAxis(line.run, step));
    const isSmooth = line.noisy && view.smoothing > 0;
    if (!isSmooth || !isCompared)
      drawn.push({name: line.name, x, y: line.y, colour: isSmooth ? PALE : line.colour, dots: line.dots});
    if (isSmooth) {
      const mx = line.mx ? line.mx.map(step => onAxis(line.run, step)) : x;
      drawn.push({name: isCompared ? line.name : "smoothed", x: mx, y: smoothed(line.my || line.y), colour: line.colour});
    }
  }
  return view.isLog ? drawn.map(line => {
    const kept = line.y.map((value, at) => at).filter(at => line.y[at] > 0);
    return {...line, x: kept.map(at => line.x[at]), y: kept.map(at => line.y[at])};
  }) : drawn;
}

// The indexes of the points in the range, and one beyond each end, so that lines reach the edges.
function inRange(line, [from, to]) {
  let first = line.x.findIndex(x => x >= from), last = line.x.length;
  if (first < 0) first = line.x.length;
  while (last > 0 && line.x[last - 1] > to) last--;
  return [first, last];
}

function niceTicks(low, high, wanted = 5) {
  const span = high - low;
  if (!(span > Math.max(1e-9 * Math.max(Math.abs(low), Math.abs(high)), 1e-30))) return [low];
  const power = 10 ** Math.floor(Math.log10(span / wanted));
  const step = power * [1, 2, 5, 10].find(factor => span / (power * factor) <= wanted + 1e-9);
  const ticks = [];
  for (let number = Math.floor(low / step); number <= Math.ceil(high / step) && ticks.length < 50; number++)
    ticks.push(number * step);
  return ticks;
}

function valueTicks(low, high, bounds) {
  if (view.isLog && high > 4 * low) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const factor of high / low > 100 ? [1] : [1, 2, 5]) ticks.push(factor * 10 ** power);
    const first = ticks.filter(tick => tick <= low).length - 1, last = ticks.findIndex(tick => tick >= high);
    const kept = ticks.slice(Math.max(0, first), last < 0 ? ticks.length : last + 1);
    const stride = Math.ceil(kept.length / 7);
    return kept.filter((tick, at) => at % stride === 0 || at === kept.length - 1);
  }
  const lower = Math.min(bounds[0] ?? -Infinity, low), upper = Math.max(bounds[1] ?? Infinity, high);
  if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) {
    const margin = high ? Math.abs(high) / 2 : upper - lower < 10 ? 0.5 : 1;
    low = Math.max(lower, low - margin);
    high = Math.min(upper, high + margin);
  }
  const ticks = niceTicks(low, high), room = 1e-9 * (ticks[ticks.length - 1] - ticks[0]);
  return ticks.filter(tick => tick >= lower - room && tick <= upper + room && (!view.isLog || tick > 0));
}

function fullRange() {
  let to = 0;
  for (const chart of data.charts)
    for (const line of chart.lines)
      if (line.x.length) to = Math.max(to, onAxis(line.run, line.x[line.x.length - 1]));
  return [0, to || 1];
}

function draw(figure, chart) {
  const svg = figure.querySelector("svg"), range = view.range || fullRange(), lines = linesOf(chart);
  let low = Infinity, high = -Infinity;
  for (const line of lines) {
    const [first, last] = inRange(line, range);
    for (let at = first; at < last; at++) {
      low = Math.min(low, line.y[at]);
      high = Math.max(high, line.y[at]);
    }
  }
  const isEmpty = low > high;
  if (isEmpty) [low, high] = view.isLog ? [1, 10] : [0, 1];
  const ticks = valueTicks(low, high, chart.bounds);
  const yFrom = Math.min(ticks[0] ?? low, low), yTo = Math.max(ticks[ticks.length - 1] ?? high, high);
  const scale = view.isLog ? Math.log10 : value => value;
  const xAt = x => LEFT + (x - range[0]) / (range[1] - range[0]) * (WIDTH - LEFT - RIGHT);
  const yAt = y => HEIGHT - BOTTOM - (scale(y) - scale(yFrom)) / ((scale(yTo) - scale(yFrom)) || 1) * (HEIGHT - TOP - BOTTOM);
  const clip = `clip-${figures.indexOf(figure)}`;
  let parts = `<clipPath id="${clip}"><rect x="${LEFT - 4}" y="${TOP - 4}" width="${WIDTH - LEFT - RIGHT + 8}" height="${HEIGHT - TOP - BOTTOM + 8}"/></clipPath>`;
  parts += `<text x="${LEFT}" y="15" class="title">${escaped(chart.title)}</text>`;
  for (const y of ticks)
    parts += `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${yAt(y).toFixed(1)}" y2="${yAt(y).toFixed(1)}" class="grid"/>` +
             `<text x="${LEFT - 6}" y="${(yAt(y) + 4).toFixed(1)}" text-anchor="end">${short(y)}</text>`;
  for (const x of niceTicks(...range))
    if (x >= range[0] - 1e-12 && x <= range[1] * (1 + 1e-12))
      parts += `<text x="${xAt(x).toFixed(1)}" y="${HEIGHT - 10}" text-anchor="middle">${short(x)}</text>`;
  if (isEmpty) parts += `<text x="${WIDTH / 2}" y="${HEIGHT / 2}" text-anchor="middle">nothing here</text>`;
  parts += `<g clip-path="url(#${clip})">`;
  for (const line of lines) {
    const [first, last] = inRange(line, range), points = [];
    for (let at = Math.max(0, first - 1); at < Math.min(line.x.length, last + 1); at++)
      points.push(`${xAt(line.x[at]).toFixed(1)},${yAt(line.y[at]).toFixed(1)}`);
    parts += `<polyline points="${points.join(" ")}" fill="none" stroke="${escaped(line.colour)}" stroke-width="1.6"/>`;
    if (line.dots || points.length === 1)
      for (const point of points) {
        const [x, y] = point.split(",");
        parts += `<circle cx="${x}" cy="${y}" r="3" fill="${escaped(line.colour)}"/>`;
      }
  }
  parts += "</g>";
  let legend = LEFT + 8;
  const named = lines.filter(line => line.x.length);
  const width = line => 7 * line.name.length + 28;
  const fits = legend + named.reduce((sum, line) => sum + width(line), 0) <= WIDTH;
  for (const line of named.length > 1 && fits ? named : []) {
    parts += `<rect x="${legend}" y="22" width="10" height="4" fill="${escaped(line.colour)}"/>` +
             `<text x="${legend + 14}" y="28">${escaped(line.name)}</text>`;
    legend += width(line);
  }
  svg.innerHTML = parts + `<g class="over"></g>`;
  figure.state = {lines, range, xAt, yAt};
}

const drawAll = () => data.charts.forEach((chart, at) => draw(figures[at], chart));

function xOf(figure, event) {
  const box = figure.querySelector("svg").getBoundingClientRect(), {range} = figure.state;
  const at = (event.clientX - box.left) / box.width * WIDTH;
  return range[0] + Math.min(1, Math.max(0, (at - LEFT) / (WIDTH - LEFT - RIGHT))) * (range[1] - range[0]);
}

function nearest(line, x, range) {
  const [first, last] = inRange(line, range);
  if (first >= last) return -1;
  let low = first, high = last - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (line.x[middle] <= x) low = middle; else high = middle;
  }
  return Math.abs(line.x[low] - x) <= Math.abs(line.x[high] - x) ? low : high;
}

// Shows the values of the points nearest to x, beside a line.
function point(figure, x) {
  const {lines, range, xAt, yAt} = figure.state, over = figure.querySelector(".over");
  const rows = lines.map(line => ({line, at: nearest(line, x, range)})).filter(row => row.at >= 0);
  if (!rows.length) return;
  const best = rows.reduce((a, b) => Math.abs(b.line.x[b.at] - x) < Math.abs(a.line.x[a.at] - x) ? b : a);
  const where = best.line.x[best.at];
  over.innerHTML = `<line class="cursor" x1="${xAt(where)}" x2="${xAt(where)}" y1="${TOP}" y2="${HEIGHT - BOTTOM}"/>` +
    rows.map(({line, at}) => `<circle cx="${xAt(line.x[at])}" cy="${yAt(line.y[at])}" r="3.5" fill="${escaped(line.colour)}"/>`).join("");
  let tip = figure.querySelector(".tip");
  if (!tip) {
    tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("role", "status");
    figure.append(tip);
  }
  const more = rows.length > MOST_NAMED ? `<br>and ${rows.length - MOST_NAMED} more` : "";
  tip.innerHTML = `<strong>${AXES[view.axis]} ${exact(where)}</strong>` + rows.slice(0, MOST_NAMED).map(({line, at}) =>
    `<br><i style="background:${escaped(line.colour)}"></i>${escaped(line.name)} ${exact(line.y[at])}` +
    (line.x[at] === where ? "" : ` <small>at ${exact(line.x[at])}</small>`)).join("") + more;
  const box = figure.getBoundingClientRect(), left = xAt(where) / WIDTH * box.width;
  tip.style.top = "44px";
  if (left > box.width / 2) [tip.style.left, tip.style.right] = ["auto", `${box.width - left + 10}px`];
  else [tip.style.left, tip.style.right] = [`${left + 10}px`, "auto"];
  figure.cursor = where;
}

function leave(figure) {
  figure.querySelector(".tip")?.remove();
  const over = figure.querySelector(".over");
  if (over) over.innerHTML = "";
}

function zoom(range) {
  figures.forEach(leave);
  view.range = range;
  reset.disabled = !range;
  drawAll();
}

function listen(figure) {
  const svg = figure.querySelector("svg");
  svg.querySelector("desc")?.remove();
  svg.tabIndex = 0;
  let from = null;
  svg.addEventListener("pointerdown", event => {
    if (event.button) return;
    from = xOf(figure, event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", event => {
    const x = xOf(figure, event), {xAt} = figure.state;
    if (from === null) return point(figure, x);
    const [a, b] = [Math.min(from, x), Math.max(from, x)].map(xAt);
    figure.querySelector(".over").innerHTML =
      `<rect class="select" x="${a}" y="${TOP}" width="${b - a}" height="${HEIGHT - TOP - BOTTOM}"/>`;
  });
  svg.addEventListener("pointerup", event => {
    if (from === null) return;
    const x = xOf(figure, event), range = [Math.min(from, x), Math.max(from, x)], full = figure.state.range;
    from = null;
    if (range[1] - range[0] > 0.02 * (full[1] - full[0])) zoom(range); else point(figure, x);
  });
  svg.addEventListener("pointercancel", () => { from = null; leave(figure); });
  svg.addEventListener("pointerleave", () => { if (from === null) leave(figure); });
  svg.addEventListener("dblclick", () => zoom(null));
  svg.addEventListener("blur", () => leave(figure));
  svg.addEventListener("keydown", event => {
    const {range, lines} = figure.state, line = lines.find(each => each.x.length), width = range[1] - range[0];
    const middle = figure.cursor ?? (range[0] + range[1]) / 2;
    if (event.key === "Escape") zoom(null);
    else if (event.key === "+" || event.key === "=")
      zoom([Math.max(0, middle - width / 4), Math.max(0, middle - width / 4) + width / 2]);
    else if ((event.key === "ArrowLeft" || event.key === "ArrowRight") && line) {
      const step = event.key === "ArrowLeft" ? -1 : 1, [first, last] = inRange(line, range);
      const at = Math.min(last - 1, Math.max(first, nearest(line, middle, range) + step));
      if (at >= 0) point(figure, line.x[at]);
    } else return;
    event.preventDefault();
  });
}

const tools = document.getElementById("chart-tools");
const known = Object.keys(AXES).filter(name => name === "step" || data.axes.every(axes => axes[name]));
tools.innerHTML =
  `<label>axis <select id="chart-axis">${known.map(name => `<option value="${name}">${AXES[name]}</option>`).join("")}</select></label>` +
  `<label>smoothing <input id="chart-smoothing" type="range" min="0" max="0.99" step="0.01" value="${view.smoothing}"></label>` +
  `<label><input id="chart-log" type="checkbox"> log scale</label>` +
  `<button id="chart-reset" type="button" disabled>whole run</button>` +
  `<span class="note">drag to zoom, double click for the whole</span>`;
tools.hidden = false;
const reset = document.getElementById("chart-reset");
reset.addEventListener("click", () => zoom(null));
document.getElementById("chart-axis").addEventListener("change", event => { view.axis = event.target.value; zoom(null); });
document.getElementById("chart-smoothing").addEventListener("input", event => { view.smoothing = Number(event.target.value); drawAll(); });
document.getElementById("chart-log").addEventListener("change", event => { view.isLog = event.target.checked; drawAll(); });
drawAll();
figures.forEach(listen);
})();
