// The cursor of the curves, and the values shown at it.

function showTip(chart) {
  const curve = chart.curve();
  const rows = shownRows().filter(({ row, index }) => curve.lines[index] && !curves.hidden.has(row.name));
  chart.tip.replaceChildren(make("strong", {}, `step ${curves.step}`), ...rows.map(({ row, index }) =>
    make("div", {}, make("span", {}, swatch(row), row.name), make("span", {}, valueText(curve, curve.lines[index])))));
  chart.tip.hidden = false;
  const place = chart.toPixel(curves.step) + 14;
  const fits = place + chart.tip.offsetWidth < chart.plot.clientWidth;
  chart.tip.style.left = `${fits ? place : Math.max(0, place - 28 - chart.tip.offsetWidth)}px`;
  chart.tip.style.top = `${chart.plot.offsetTop + 8}px`;
  return `Step ${curves.step}: ${rows.map(({ row, index }) => `${row.name} ${valueText(curve, curve.lines[index])}`).join(", ")}`;
}

function moveTo(step, chart) {
  curves.step = Math.max(0, Math.min(chart.last, step));
  curves.charts.forEach(drawChart);
  for (const other of curves.charts) other.tip.hidden = true;
  fillValues();
  return showTip(chart);
}

function fillValues() {
  const table = document.querySelector(".values");
  const shown = curves.charts.map((chart) => chart.curve());
  document.getElementById("at-step").textContent = `Values at step ${curves.step}`;
  const head = make("tr", {}, ...["method", ...shown.map((one) => one.title)].map((text) => make("th", { scope: "col" }, text)));
  table.tHead.replaceChildren(head);
  for (const line of table.tBodies[0].rows) {
    const index = Number(line.dataset.row);
    line.hidden = !shownRows().some((one) => one.index === index);
    line.replaceChildren(line.cells[0], ...shown.map((curve) => make("td", {}, valueText(curve, curve.lines[index]))));
  }
}

function addChart(id, curve, choices) {
  const chart = { id, curve, plot: make("div", { class: "plot" }), tip: make("div", { class: "tip", "aria-hidden": "true" }) };
  chart.tip.hidden = true;
  const caption = make("figcaption", {}, make("h3", {}, choices ? "Gradient norm before clipping" : curve().title));
  if (choices) {
    const select = make("select", { "aria-label": "of what" }, ...choices.map((one) =>
      make("option", { value: one.key }, one.key === "grad_norm" ? "all" : one.key.replace("grad_norm_", ""))));
    select.addEventListener("change", () => { curves.norm = select.value; redraw(); });
    caption.append(select);
  }
  chart.figure = make("figure", { id: `chart-${id}` }, caption, chart.plot, chart.tip);
  document.querySelector(".charts").append(chart.figure);
  chart.plot.addEventListener("pointermove", (event) =>
    moveTo(chart.toStep(event.clientX - chart.plot.getBoundingClientRect().left), chart));
  chart.plot.addEventListener("pointerleave", () => { chart.tip.hidden = true; });
  chart.plot.addEventListener("focusout", () => { chart.tip.hidden = true; });
  chart.plot.addEventListener("keydown", (event) => {
    const far = Math.max(1, Math.round(chart.last / 50)) * (event.shiftKey ? 5 : 1);
    const to = { ArrowLeft: curves.step - far, ArrowRight: curves.step + far, Home: 0, End: chart.last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    document.getElementById("spoken").textContent = moveTo(to, chart);
  });
  curves.charts.push(chart);
}

function redraw() {
  curves.charts.forEach(drawChart);
  fillValues();
}

function startCurves() {
  if (!document.getElementById("curves")) return;
  const by = Object.fromEntries(DATA.curves.map((one) => [one.key, one]));
  const norms = DATA.curves.filter((one) => one.key.startsWith("grad_norm"));
  if (by.loss) addChart("loss", () => by.loss);
  if (by.eval_loss) addChart("eval_loss", () => by.eval_loss);
  if (norms.length) {
    curves.norm = norms[0].key;
    addChart("norm", () => by[curves.norm], norms.length > 1 ? norms : null);
  }
  if (by.accuracy) addChart("accuracy", () => by.accuracy);
  document.querySelector(".values tbody").append(...DATA.rows.map((row, index) => {
    const box = make("input", { type: "checkbox", checked: "" });
    box.addEventListener("change", () => {
      if (box.checked) curves.hidden.delete(row.name); else curves.hidden.add(row.name);
      redraw();
    });
    return make("tr", { "data-row": index }, make("th", { scope: "row" }, make("label", {}, box, " ", swatch(row), row.name)));
  }));
  const rank = document.getElementById("rank");
  if (rank) {
    curves.rank = rank.value;
    rank.addEventListener("change", () => { curves.rank = rank.value; redraw(); });
  }
  document.getElementById("smooth").addEventListener("change", redraw);
  const first = DATA.curves[0];  // begin at the last step that is drawn
  curves.step = Math.max(...first.lines.filter(Boolean).map((line) => line.steps[values(first, line).findLastIndex((one) => one !== null)]));
  redraw();
}
