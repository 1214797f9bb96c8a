"use strict";
// Curves against steps: a chart for each quantity, one cursor for all, one table of the values at the cursor.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 260;  // of a chart, in pixels; more where it has many rows

function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function linear(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

function logarithmic(low, high, from, to) {
  const inner = linear(Math.log(low), Math.log(high), from, to);
  return (value) => inner(Math.log(value));
}

function ticks(low, high, about) {
  const rough = (high - low || 1) / about;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((one) => one >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const k of [1, 2, 5]) if (k * 10 ** power >= low && k * 10 ** power <= high) found.push(k * 10 ** power);
  const decades = found.filter((one) => Number.isInteger(Number(Math.log10(one).toFixed(9))));
  return found.length > 6 && decades.length > 1 ? decades : found.length > 1 ? found : ticks(low, high, 4);
}

function short(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size >= 1e9) return `${Number((value / 1e9).toPrecision(3))}G`;
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(4)));
}

function looks(row, kind) {
  return `m-${row.method} d${row.dash} ${kind}`;
}

function mark(row, x, y, kind = "fill") {
  return draw("path", { class: `m-${row.method} ${kind}`, d: row.marker, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` });
}

function swatch(row) {
  const line = draw("line", { x1: 0, x2: 24, y1: 6, y2: 6, class: looks(row, "stroke") });
  return draw("svg", { class: "swatch", viewBox: "0 0 24 12", "aria-hidden": "true" }, line, mark(row, 12, 6));
}

const curves = { hidden: new Set(), rank: "", step: null, norm: "grad_norm", charts: [] };

function shownRows() {
  return DATA.rows
    .map((row, index) => ({ row, index }))
    .filter(({ row }) => !curves.rank || row.r === null || String(row.r) === curves.rank);
}

function values(curve, line) {
  const kind = document.getElementById("smooth").checked && line.smooth ? line.smooth : line.raw;
  return kind.map((value) => (value === null || (curve.log && value <= 0) ? null : value * (curve.share ? 100 : 1)));
}

function valueAt(curve, line, step) {
  // The value at the nearest drawn step; null beyond the ends of the line.
  const all = values(curve, line);
  let best = null;
  line.steps.forEach((one, k) => {
    if (all[k] !== null && (best === null || Math.abs(one - step) < Math.abs(line.steps[best] - step))) best = k;
  });
  const gap = line.steps.length > 1 ? (line.steps[line.steps.length - 1] - line.steps[0]) / (line.steps.length - 1) : 1;
  return best === null || Math.abs(line.steps[best] - step) > gap ? null : all[best];
}

// A share in % with one decimal; halves are rounded away from zero, as in the tables.
function percent(share) {
  return ((Math.sign(share) * Math.round(Number((1000 * Math.abs(share)).toFixed(8)))) / 10 || 0).toFixed(1);
}

function valueText(curve, line) {
  const value = line && valueAt(curve, line, curves.step);
  return value === null || value === undefined ? "-" : curve.share ? value.toFixed(1) : value.toPrecision(4);
}

function drawChart(chart) {
  const curve = chart.curve();
  const width = Math.max(chart.plot.clientWidth, 240);
  const height = HEIGHT;
  const box = { left: 46, right: width - 10, top: 10, bottom: height - 34 };
  const lines = shownRows().map(({ row, index }) => ({ row, line: curve.lines[index] }))
    .filter(({ row, line }) => line && !curves.hidden.has(row.name));
  const last = Math.max(1, ...lines.map(({ line }) => line.steps[line.steps.length - 1]));
  const inside = lines.flatMap(({ line }) => values(curve, line).filter((one) => one !== null));
  let [low, high] = inside.length ? [Math.min(...inside), Math.max(...inside)] : [1, 10];
  const padding = 0.06 * (high - low || Math.abs(high) || 1);
  [low, high] = curve.log ? [low / 1.1, high * 1.1] : [low - padding, high + padding];
  const x = linear(0, last, box.left, box.right);
  const y = (curve.log ? logarithmic : linear)(low, high, box.bottom, box.top);
  const clip = `clip-${chart.id}`;
  const names = lines.map(({ row, line }) => `${row.name} ends at ${short(values(curve, line).filter((v) => v !== null).pop())}`);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: 0, "aria-label": `${curve.title} against the step` },
    draw("title", {}, `${curve.title} against the step`), draw("desc", {}, names.join("; ")),
    draw("clipPath", { id: clip }, draw("rect", { x: box.left - 4, y: box.top, width: box.right - box.left + 8, height: box.bottom - box.top })));
  for (const tick of curve.log ? logTicks(low, high) : ticks(low, high, 5)) {
    svg.append(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }),
      draw("text", { x: box.left - 6, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  for (const tick of ticks(0, last, width / 90).filter(Number.isInteger))
    svg.append(draw("text", { x: x(tick), y: box.bottom + 16, "text-anchor": "middle" }, short(tick)));
  svg.append(draw("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    draw("text", { x: (box.left + box.right) / 2, y: height - 4, "text-anchor": "middle" }, "step"));
  const marks = draw("g", { "clip-path": `url(#${clip})` });
  for (const { row, line } of lines) {
    const points = values(curve, line).map((value, k) => [line.steps[k], value]).filter(([, value]) => value !== null);
    marks.append(draw("path", { class: looks(row, "stroke"), d: points.map(([s, v], k) => `${k ? "L" : "M"}${x(s).toFixed(1)} ${y(v).toFixed(1)}`).join("") }));
    const every = points.length < 12 ? 1 : Math.ceil(points.length / 8);
    points.forEach(([s, v], k) => { if (k % every === 0) marks.append(mark(row, x(s), y(v))); });
  }
  svg.append(marks);
  if (curves.step !== null) svg.append(draw("line", { class: "cursor", x1: x(curves.step), x2: x(curves.step), y1: box.top, y2: box.bottom }));
  const focused = document.activeElement === chart.svg;
  chart.svg = svg;
  chart.toStep = (px) => Math.round(((px / svg.clientWidth) * width - box.left) / (box.right - box.left) * last);
  chart.toPixel = (step) => x(step);
  chart.last = last;
  chart.plot.replaceChildren(svg);
  if (focused) svg.focus({ preventScroll: true });
}
