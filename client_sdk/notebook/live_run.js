// A run in a notebook: where it stands, its curves, and what became of its rounds.
//
// model.run        the run as the API has it, { name, state, published, rounds_planned, … }; null: not yet
// model.history    its history, `GET /api/v1/runs/{id}/history`
// model.links      patterns of addresses on the dashboard
import curves from "../drawings/curves.js";
import { h, place, say, set } from "../drawings/dom.js";
import { Model } from "../drawings/model.js";
import { count, metric, percent, size } from "../drawings/numbers.js";
import outcomes from "../drawings/outcomes.js";
import { attend, frame, section, shown } from "./host.js";

const OPEN = ["selecting", "training", "aggregating", "evaluating"];
const CURVES = [["accuracy", "Accuracy"], ["loss", "Loss"]];
const BARS = [["outcomes", "Assignments by outcome"], ["seconds", "Time by phase"], ["bytes", "Bytes moved"]];

function render({ model, el }) {
  const around = frame(el);
  const stops = [attend(model, around)];
  const standing = where();
  const pictures = h("div", { class: "fs-live" });
  const models = [];
  around.root.append(standing.element, pictures);

  function draw() {
    const [run, history] = [model.get("run"), model.get("history")];
    if (!run || !history) return;
    head(run, history, around, model.get("links"));
    standing.draw(run, history, model.get("links"));
    if (history.rounds.length && !models.length) begin();
    for (const one of models) one.set("data", { runs: [history] });
  }

  function begin() {
    const [beside, bars] = [h("div", { class: "fs-live-bars" }), h("div", { class: "fs-live-bars" })];
    pictures.append(beside, bars);
    const add = (parent, drawing, [name, heading], values) => {
      models.push(new Model(values));
      stops.push(drawing.render({ model: models.at(-1), el: section(parent, name, heading) }));
    };
    for (const one of CURVES) add(beside, curves, one, { metric: one[0] });
    for (const one of BARS) add(bars, outcomes, one, { measure: one[0] });
  }

  draw();
  const events = ["change:run", "change:history"];
  for (const event of events) model.on(event, draw);
  return () => {
    for (const event of events) model.off(event, draw);
    for (const stop of stops) stop();
    around.root.remove();
  };
}

function head(run, history, { title, chip, lead, link }, links) {
  say(title, `${run.name} (run ${run.id})`);
  shown(chip, run.state);
  say(lead, `training ${run.model} with ${run.strategy}.`);
  set(link, { href: links.self, hidden: null });
}

// How far it is, what it has come to, and what went wrong last.
function where() {
  const now = h("p", {});
  const bar = h("progress", { "aria-label": "Rounds published" });
  const words = h("span", {});
  const numbers = h("dl", { class: "stats" });
  const notices = h("div", { class: "fs-live-notices" });
  const values = new Map();
  const element = h("section", { "aria-label": "Where it stands" }, now, h("div", { class: "fs-live-progress" }, bar, words), notices, numbers);
  return {
    element,
    draw(run, history, links) {
      drawNow(now, run, history, links);
      set(bar, { max: run.rounds_planned, value: run.published });
      say(words, `${count(run.published)} of ${count(run.rounds_planned)} round${run.rounds_planned === 1 ? "" : "s"} published`);
      place(notices, trouble(run, history));
      place(numbers, totals(history).map(([what, value]) => fact(values, what, value)));
    },
  };
}

function fact(values, what, value) {
  if (!values.has(what)) {
    const dd = h("dd", {});
    values.set(what, { element: h("div", {}, h("dt", {}, what), dd), dd });
  }
  const { element, dd } = values.get(what);
  say(dd, value);
  return element;
}

const IDLE = {
  draft: "Nothing happens until it is started.",
  running: "Between two rounds.",
  paused: "No round opens until it is resumed.",
};

function drawNow(now, run, history, links) {
  const round = history.rounds.findLast(({ phase }) => OPEN.includes(phase));
  if (round) {
    const link = h("a", { href: links.round.replace("{id}", round.id), target: "_blank", rel: "noopener" }, `Round ${round.number}`);
    now.replaceChildren(link, ` is ${round.phase}: ${count(round.counts.invited)} invited, ${count(round.counts.uploaded + round.counts.accepted)} uploaded.`);
  } else {
    const why = ["paused", "stopped"].includes(run.state) && run.reason ? ` “${run.reason}”` : "";
    now.replaceChildren(`${IDLE[run.state] ?? `It is ${run.state}.`}${why}`);
  }
}

function trouble(run, history) {
  const last = history.rounds.findLast(({ ended_at: ended }) => ended);
  if (run.state !== "failed" && last?.phase !== "failed") return [];
  const title = run.state === "failed" ? "The run failed." : `Round ${last.number} failed.`;
  const why = run.state === "failed" ? run.reason || last?.reason : last.reason;
  return [h("div", { class: "notice", "data-kind": "error" }, h("p", {}, h("strong", {}, title), ` ${why ?? ""}`))];
}

function totals({ rounds }) {
  if (!rounds.length) return [];
  const published = rounds.findLast(({ phase }) => phase === "published");
  const sum = (of) => rounds.reduce((all, round) => all + (of(round) ?? 0), 0);
  const known = (value, say) => (value === null || value === undefined ? "–" : say(value));
  return [
    ["accuracy on the held-out set", known(published?.accuracy, percent)],
    ["loss on the held-out set", known(published?.loss, metric)],
    ["accepted updates", count(sum((round) => round.counts.accepted))],
    ["samples behind them", count(sum((round) => round.samples))],
    ["received", size(sum((round) => round.bytes_received))],
  ];
}

export default { render };
