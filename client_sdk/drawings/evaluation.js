// What participants measured on data of their own: a version's federated evaluation.
//
// `data` is the state of a round (round_state.js), or { evaluation, summary, metrics }: the latest
// evaluation of a version or null, what the last one found that had enough reports, and what the
// server measured itself. `links` may have a pattern for "participant".
//
// Of fewer participants than the smallest cohort nothing is known here, and so nothing can be shown.
import { h, place, say } from "./dom.js";
import { Model } from "./model.js";
import { count, inWords, metric, named, plural } from "./numbers.js";
import scores from "./scores.js";
import { now, onTick } from "./ticks.js";

const people = (number) => `${count(number)} ${plural(number, "participant", "participants")}`;
const title = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
const isShare = (name) => name.includes("accuracy");
const away = (name, value) => (isShare(name) ? `${(100 * value).toFixed(1)} points` : metric(value));

function read(data) {
  if (!data?.round) return { evaluation: data?.evaluation ?? null, summary: data?.summary ?? null, server: data?.metrics ?? {}, asks: false };
  const { evaluation, round, run } = data;
  return { evaluation, summary: evaluation?.summary ?? null, server: round.version?.metrics ?? {}, asks: run.evaluators > 0 };
}

function render({ model, el }) {
  const root = h("div", { class: "fs-evaluation" });
  el.append(root);
  let before = {};
  let left = null; // the words that count down

  function draw() {
    const found = read(model.get("data"));
    if (Object.keys(found).every((name) => found[name] === before[name])) return;
    before = found;
    left = null;
    const { evaluation, summary, server, asks } = found;
    place(root, [standing(evaluation, summary, asks), ...(summary ? told(summary, server, evaluation) : [])].filter(Boolean));
    tick();
  }

  function standing(evaluation, summary, asks) {
    if (!evaluation) return asks ? line("Participants are asked once the candidate is there, and the server has measured it.") : null;
    const { state, reports, goal, minimum, reason } = evaluation;
    if (state === "done") return null;
    if (state === "open") {
      left = h("span", { class: "nowrap" });
      const bar = h("progress", { max: goal, value: Math.min(reports, goal), "aria-label": "Participants that have evaluated it" });
      const words = `${count(reports)} of ${people(goal)} ${plural(reports, "has", "have")} evaluated it; of fewer than ${minimum} nothing is shown or used. `;
      return h("div", { class: "fs-evaluation-open" }, h("p", {}, words, left), bar);
    }
    const word = state === "failed" ? "It came to nothing." : "It was cancelled.";
    const next = state === "failed" ? "Ask again when more of those that evaluate are there (fedclient train --held-out 0.1), or for longer." : "";
    return h("div", { class: "notice", "data-kind": "warning" },
      h("p", {}, h("strong", {}, word), " ", reason, summary ? " Below is what the evaluation before it found." : ""), next ? h("p", {}, next) : null);
  }

  function told(summary, server, evaluation) {
    const { participants, samples, metrics, classes } = summary;
    const names = Object.keys(metrics).sort((a, b) => (a === "loss") - (b === "loss") || a.localeCompare(b));
    const parts = [
      line(`${people(participants)} with ${count(samples)} held-out ${plural(samples, "example", "examples")} between them. A mean counts each by its examples, and so does the deviation of participants from it.`),
      h("ul", { class: "fs-evaluation-metrics" }, ...names.map((name) => one(name, metrics[name], server[name]))),
    ];
    if (classes) parts.push(...byClass(classes, evaluation?.minimum));
    return parts;
  }

  function one(name, told, server) {
    const { mean, deviation, worst, worst_participant: who } = told;
    const href = (model.get("links") ?? model.get("data").links)?.participant?.replace("{uuid}", who.uuid);
    const person = href ? h("a", { href }, who.name) : who.name;
    const facts = [["worst", h("span", {}, named(name, worst), " · ", person)]];
    if (server !== undefined) facts.push(["the server's set", named(name, server)]);
    return h("li", {},
      h("p", { class: "fs-evaluation-mean" }, h("span", {}, title(name)), h("strong", {}, named(name, mean)), h("span", { class: "quiet" }, `± ${away(name, deviation)}`)),
      spread(name, told, server),
      h("dl", {}, ...facts.map(([label, value]) => h("div", {}, h("dt", { "data-mark": label === "worst" ? "worst" : "server" }, label), h("dd", {}, value)))));
  }

  draw();
  model.on("change:data", draw);
  const stop = onTick(tick);
  function tick() {
    if (!left) return;
    const seconds = (Date.parse(before.evaluation.deadline) - now(model)) / 1000;
    say(left, seconds > 0 ? `${inWords(seconds)} left.` : "Its time is over.");
  }
  return () => {
    stop();
    model.off("change:data", draw);
    root.remove();
  };
}

// Where mean, worst and the server's value lie, with a band as wide as the deviation either way. A
// share lies between nothing and all; others from zero, or from what is least.
function spread(name, { mean, deviation, worst }, server) {
  const values = [mean - deviation, mean + deviation, worst, ...(server === undefined ? [] : [server])];
  const low = isShare(name) ? 0 : Math.min(0, ...values);
  const high = isShare(name) ? 1 : Math.max(...values) * 1.05 || 1;
  const at = (value) => `${(100 * (Math.min(Math.max(value, low), high) - low)) / (high - low)}%`;
  const mark = (kind, value) => lying(h("span", { class: "fs-spread-mark", "data-mark": kind }), { left: at(value) });
  const band = lying(h("span", { class: "fs-spread-band" }), { left: at(mean - deviation), right: `calc(100% - ${at(mean + deviation)})` });
  const others = server === undefined ? [] : [mark("server", server)];
  return h("div", { class: "fs-spread", "aria-hidden": "true" }, band, ...others, mark("worst", worst), mark("mean", mean));
}

// Pages take no style from an attribute.
const lying = (element, where) => (Object.assign(element.style, where), element);

function byClass(classes, minimum) {
  const shown = classes.filter((one) => one.examples).map(({ label, examples, recognised }) => ({ label, score: recognised / examples, note: `${count(recognised)} of ${count(examples)}` }));
  const hidden = classes.filter((one) => !one.examples).map((one) => one.label);
  const parts = [h("h3", {}, "Class by class")];
  if (shown.length) {
    const bars = h("div");
    const model = new Model();
    model.set("title", "Recognised by class, the least first");
    model.set("data", { scores: shown.sort((a, b) => a.score - b.score || a.label.localeCompare(b.label)) });
    scores.render({ model, el: bars });
    parts.push(bars);
  }
  if (hidden.length) parts.push(line(`Of ${hidden.join(", ")} too few participants${minimum ? ` (fewer than ${minimum})` : ""} have examples, alone or together, so nothing is shown of ${plural(hidden.length, "it", "them")}.`));
  return parts;
}

const line = (text) => h("p", { class: "small quiet" }, text);

export default { render };
