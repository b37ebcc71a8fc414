// Bars of classes: how sure a model is of each, or how well it recognises each.
//
// model.data    {scores: [{label, score, note}], kind}: score from 0 to 1, note in small letters
//               behind it; kind "values": plain numbers, of any size. In the order to be shown
// model.title   what they are, for those who do not see them
//
// The length of a bar says what its number says; the numbers are there to be read.
import { h, say } from "./dom.js";
import { percent, plain } from "./numbers.js";

const FIRST = 15; // bars, before somebody asks for the others

function share(score) {
  if (score > 0 && score < 0.001) return "< 0.1 %";
  if (score < 1 && score > 0.999) return "> 99.9 %";
  return percent(score);
}

class Row {
  constructor() {
    this.label = h("span", { class: "score-label" });
    this.fill = h("span", { class: "score-fill" });
    this.value = h("span", { class: "score-value" });
    this.note = h("span", { class: "score-note" });
    const bar = h("span", { class: "score-bar", "aria-hidden": "true" }, this.fill);
    this.element = h("li", { class: "score" }, this.label, bar, this.value, this.note);
  }

  show({ label, score, note }, most, isValue) {
    say(this.label, label);
    say(this.value, isValue ? plain(score) : share(score));
    say(this.note, note ?? "");
    this.note.hidden = !note;
    this.fill.style.width = `${most > 0 ? (100 * Math.abs(score)) / most : 0}%`;
  }
}

function render({ model, el }) {
  const list = h("ol", { class: "scores" });
  const rest = h("ol", { class: "scores" });
  const summary = h("summary");
  const more = h("details", { class: "scores-more" }, summary, rest);
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
    say(summary, `All ${scores.length}`);
  }

  show();
  model.on("change:data", show);
  return () => model.off("change:data", show);
}

export default { render };
