// Bars of classes: how sure a model is of each, or how well it recognises each.
//
// model.data    {scores: [{label, score, note}], kind}: score from 0 to 1, note in small letters
//               behind it; kind "values": plain numbers, of any size. In the order to be shown
// model.title   what they are, for those who do not see them
//
// The length of a bar says what its number says; the numbers are there to be read.
import { make, write } from "./chart.js";

const FIRST = 15; // bars, before somebody asks for the others

function share(score) {
  const percent = 100 * score;
  if (percent > 0 && percent < 0.1) return "< 0.1 %";
  if (percent < 100 && percent > 99.9) return "> 99.9 %";
  return `${percent.toFixed(1)} %`;
}

function plain(value) {
  return Number.isInteger(value) ? String(value) : value.toPrecision(4);
}

class Row {
  constructor() {
    this.label = make("span", { class: "score-label" });
    this.fill = make("span", { class: "score-fill" });
    this.value = make("span", { class: "score-value" });
    this.note = make("span", { class: "score-note" });
    const bar = make("span", { class: "score-bar", "aria-hidden": "true" }, this.fill);
    this.element = make("li", { class: "score" }, this.label, bar, this.value, this.note);
  }

  show({ label, score, note }, most, isValue) {
    write(this.label, label);
    write(this.value, isValue ? plain(score) : share(score));
    write(this.note, note ?? "");
    this.note.hidden = !note;
    this.fill.style.width = `${most > 0 ? (100 * Math.abs(score)) / most : 0}%`;
  }
}

function render({ model, el }) {
  const list = make("ol", { class: "scores" });
  const rest = make("ol", { class: "scores" });
  const summary = make("summary");
  const more = make("details", { class: "scores-more" }, summary, rest);
  const rows = [];
  el.replaceChildren(list, more);

  function show() {
    const { scores = [], kind } = model.get("data") ?? {};
    const isValue = kind === "values";
    const most = isValue ? Math.max(0, ...scores.map((one) => Math.abs(one.score))) : 1;
    list.setAttribute("aria-label", model.get("title") ?? "Scores");
    rest.setAttribute("aria-label", "The others");
    while (rows.length < scores.length) rows.push(new Row());
    for (const row of rows.splice(scores.length)) row.element.remove();
    scores.forEach((one, place) => {
      const home = place < FIRST ? list : rest;
      if (rows[place].element.parentNode !== home) home.append(rows[place].element);
      rows[place].show(one, most, isValue);
    });
    more.hidden = scores.length <= FIRST;
    write(summary, `All ${scores.length}`);
  }

  show();
  model.on("change:data", show);
  return () => model.off("change:data", show);
}

export default { render };
