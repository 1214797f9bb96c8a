// The questions that one row answers correctly and another does not; then everything starts.

function pairOf(first, second) {
  for (const pair of DATA.answers.pairs) {
    if (pair.one === first && pair.other === second) return { pair, turned: false };
    if (pair.one === second && pair.other === first) return { pair, turned: true };
  }
  return null;
}

function showAnswers() {
  const [first, second] = ["first", "second"].map((id) => document.getElementById(id).value);
  const found = pairOf(first, second);
  const [counts, lists] = ["counts", "lists"].map((id) => document.getElementById(id));
  if (!found) {
    counts.textContent = first === second ? "Choose two different methods."
      : "These two are not compared: their ranks or their questions differ.";
    lists.replaceChildren();
    return;
  }
  const { pair, turned } = found;
  const [more, less] = turned ? [pair.more[1], pair.more[0]] : pair.more;
  const several = pair.seeds.length > 1;
  const over = several ? ` (${pair.seeds.length} seeds)` : "";
  const how = several ? "correct with more seeds" : "alone correct";
  counts.textContent = `Of ${pair.n} questions${over}, ${first} is ${how} on ${more}, ${second} on ${less}; no difference on ${pair.n - more - less}.${difference(first, second)}`;
  lists.replaceChildren(...[0, 1].map((side) => {
    const entries = pair.lists[turned ? 1 - side : side];
    const [winner, loser, count] = side ? [second, first, less] : [first, second, more];
    const part = entries.length < count ? ` (first ${entries.length})` : "";
    return make("div", {}, make("h3", {}, `${winner} correct${several ? " more often" : ""}, ${loser} not: ${count} ${count === 1 ? "question" : "questions"}${part}`),
      ...entries.map((entry) => card(entry, pair, turned, side, several)));
  }));
}

function difference(first, second) {
  const found = DATA.differences.find((one) => one.row === first && one.minus === second);
  if (!found) return "";
  const points = (share) => (percent(share).startsWith("-") ? percent(share) : `+${percent(share)}`);
  return ` Difference in accuracy: ${points(found.value)} points, 95% interval ${points(found.low)} to ${points(found.high)}: ${found.word} (Holm's correction over the table).`;
}

function card(entry, pair, turned, side, several) {
  const [place, seed, ...rest] = entry;
  const asked = DATA.answers.questions[place];
  const order = turned ? [1, 0] : [0, 1];
  const list = make("dl", {}, make("dt", {}, "reference"), make("dd", {}, asked.gold));
  order.forEach((which, k) => {
    const name = which ? pair.other : pair.one;
    const often = several ? ` (${rest[which]} of ${pair.seeds.length})` : "";
    list.append(make("dt", {}, `${name}${often}`),
      make("dd", { class: k === side ? "right" : "wrong" }, make("span", { class: "hidden" }, k === side ? "correct: " : "wrong: "), DATA.answers.texts[rest[2 + which]]));
  });
  const where = several ? `${asked.task}, ${asked.id}; answers with seed ${seed}` : `${asked.task}, ${asked.id}`;
  return make("div", { class: "item" }, make("p", {}, asked.prompt), list, make("div", { class: "where" }, where));
}

function startAnswers() {
  if (!document.getElementById("answers")) return;
  const names = [...new Set(DATA.answers.pairs.flatMap((pair) => [pair.one, pair.other]))];
  const [one, other] = DATA.answers.opens;  // DuDe and the best other method
  for (const [id, chosen] of [["first", one], ["second", other]]) {
    const select = document.getElementById(id);
    select.append(...names.map((name) => make("option", {}, name)));
    select.value = chosen;
    select.addEventListener("change", showAnswers);
  }
  showAnswers();
}

function drawAll() {
  drawAccuracy();
  drawCost();
  if (curves.charts.length) redraw();
}

startCurves();
startAnswers();
drawAll();
for (const input of document.querySelectorAll("#cost input")) input.addEventListener("change", drawCost);
let wide = document.documentElement.clientWidth;
window.addEventListener("resize", () => {
  if (document.documentElement.clientWidth === wide) return;
  wide = document.documentElement.clientWidth;
  drawAll();
});
window.addEventListener("beforeprint", drawAll);
