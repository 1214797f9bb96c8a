// Accuracy with its intervals, and cost against accuracy.

function drawAccuracy() {
  const figure = document.getElementById("accuracy");
  if (!figure) return;
  const rows = DATA.rows.filter((row) => row.accuracy);
  const plot = figure.querySelector(".plot");
  const width = Math.max(plot.clientWidth, 240);
  const names = Math.min(0.42 * width, 14 + 7.2 * Math.max(4, ...rows.map((row) => row.name.length)));
  const height = Math.max(HEIGHT, 34 + 30 * rows.length + 30);
  const apart = (height - 64) / rows.length;
  const all = rows.flatMap((row) => [row.accuracy.low, row.accuracy.high, ...row.accuracies.filter((one) => one !== null)]);
  if (DATA.base) all.push(DATA.base.value);
  const ends = [Math.max(0, Math.min(...all)), Math.min(1, Math.max(...all))];
  const padding = 0.05 * (ends[1] - ends[0] || 0.1);
  const x = linear(100 * (ends[0] - padding), 100 * (ends[1] + padding), names, width - 50);
  const per = (share) => x(100 * Math.max(0, Math.min(1, share)));
  const title = `Accuracy on ${DATA.headline} with 95% intervals`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": title }, draw("title", {}, title),
    draw("desc", {}, rows.map((row) => `${row.name} ${interval(row.accuracy)}`).join("; ")));
  for (const tick of ticks(100 * (ends[0] - padding), 100 * (ends[1] + padding), (width - names) / 90)) {
    svg.append(draw("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 22, y2: height - 24 }),
      draw("text", { x: x(tick), y: height - 8, "text-anchor": "middle" }, short(tick)));
  }
  if (DATA.base) {
    const at = per(DATA.base.value);
    svg.append(draw("line", { class: "base", x1: at, x2: at, y1: 16, y2: height - 24 }),
      draw("text", { x: at, y: 11, "text-anchor": at > width / 2 ? "end" : "start" }, `base ${percent(DATA.base.value)}`));
  }
  rows.forEach((row, k) => {
    const y = 25 + apart * (k + 0.5);
    const line = draw("g", {}, draw("title", {}, `${row.name}: ${interval(row.accuracy)}`),
      draw("text", { class: "named", x: 0, y: y + 4 }, row.name),
      draw("line", { class: `m-${row.method} stroke`, x1: per(row.accuracy.low), x2: per(row.accuracy.high), y1: y, y2: y }),
      mark(row, per(row.accuracy.value), y));
    if (row.seeds.length > 1) for (const one of row.accuracies.filter((value) => value !== null))
      line.append(draw("line", { class: `m-${row.method} stroke`, x1: per(one), x2: per(one), y1: y - 6, y2: y + 6 }));
    const right = per(Math.max(row.accuracy.high, ...row.accuracies.filter((value) => value !== null)));
    line.append(draw("text", { class: "value", x: right + 8, y: y + 4 }, percent(row.accuracy.value)));
    svg.append(line);
  });
  plot.replaceChildren(svg);
}

function interval(found) {
  const shown = [found.value, Math.max(0, found.low), Math.min(1, found.high)].map(percent);
  return `${shown[0]}% [${shown[1]}, ${shown[2]}]`;
}

const COSTS = {
  seconds: { title: "training seconds", text: (value) => `${short(value)} s` },
  memory: { title: "peak memory (GiB)", text: (value) => `${value.toFixed(2)} GiB`, unit: 2 ** 30 },
  parameters: { title: "trainable parameters", text: (value) => value.toLocaleString("en") },
};

function drawCost() {
  const figure = document.getElementById("cost");
  if (!figure) return;
  const key = figure.querySelector("input:checked").value;
  const cost = COSTS[key];
  const points = DATA.rows.filter((row) => row.accuracy && row.cost[key])
    .map((row) => ({ row, x: row.cost[key] / (cost.unit || 1), y: 100 * row.accuracy.value }));
  const plot = figure.querySelector(".plot");
  const width = Math.max(plot.clientWidth, 240);
  const height = Math.max(HEIGHT, 60 + 22 * points.length);
  if (!points.length) {
    plot.replaceChildren(make("p", { class: "note" }, "No run has both an accuracy and this cost."));
    return;
  }
  const [least, most] = [Math.min(...points.map((p) => p.x)), Math.max(...points.map((p) => p.x))];
  const log = most / least > 15;
  const ys = points.flatMap(({ row }) => [100 * Math.max(0, row.accuracy.low), 100 * Math.min(1, row.accuracy.high)]);
  const padding = 0.05 * (Math.max(...ys) - Math.min(...ys) || 10);
  const [low, high] = [Math.min(...ys) - padding, Math.max(...ys) + padding];
  const margin = log ? [least / 1.4, most * 1.4] : [least - 0.08 * (most - least || most), most + 0.08 * (most - least || most)];
  const x = (log ? logarithmic : linear)(...margin, 44, width - 16);
  const y = linear(low, high, height - 40, 12);
  const title = `Accuracy on ${DATA.headline} against ${cost.title}`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": title }, draw("title", {}, title),
    draw("desc", {}, points.map((p) => `${p.row.name}: ${cost.text(p.x)}, ${interval(p.row.accuracy)}`).join("; ")));
  for (const tick of ticks(low, high, 5).filter((one) => one >= 0 && one <= 100))
    svg.append(draw("line", { class: "grid", x1: 44, x2: width - 16, y1: y(tick), y2: y(tick) }),
      draw("text", { x: 38, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
  for (const tick of log ? logTicks(...margin) : ticks(...margin, width / 110))
    svg.append(draw("line", { class: "axis", x1: x(tick), x2: x(tick), y1: height - 40, y2: height - 36 }),
      draw("text", { x: x(tick), y: height - 22, "text-anchor": "middle" }, short(tick)));
  svg.append(draw("line", { class: "axis", x1: 44, x2: width - 16, y1: height - 40, y2: height - 40 }),
    draw("text", { x: (28 + width) / 2, y: height - 5, "text-anchor": "middle" }, cost.title));
  const taken = points.map((p) => ({ at: y(p.y) + 4, from: x(p.x) - 8, wide: 16 }));  // no label covers a dot
  for (const p of [...points].sort((a, b) => a.y - b.y)) {
    const [px, py, wide] = [x(p.x), y(p.y), 7 * p.row.name.length];
    const left = px + 10 + wide > width;
    const from = left ? px - 10 - wide : px + 10;
    let at = py + 4;  // labels move up until they cover no other one
    while (at > 12 && taken.some((one) => Math.abs(one.at - at) < 14 && one.from < from + wide && from < one.from + one.wide)) at -= 2;
    taken.push({ at, from, wide });
    svg.append(draw("g", { class: `m-${p.row.method}` }, draw("title", {}, `${p.row.name}: ${cost.text(p.x)}, ${interval(p.row.accuracy)}`),
      draw("line", { class: "stroke", x1: px, x2: px, y1: y(100 * Math.max(0, p.row.accuracy.low)), y2: y(100 * Math.min(1, p.row.accuracy.high)), opacity: 0.55 }),
      mark(p.row, px, py),
      draw("text", { class: "value", x: left ? px - 10 : px + 10, y: at, "text-anchor": left ? "end" : "start" }, p.row.name)));
  }
  plot.replaceChildren(svg);
}
