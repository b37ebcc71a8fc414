// Taking part, in a cell: what is under way, the loss of the training, and what came of each round.
//
// model.now      { word, title, detail, fraction }: fraction of the step that is done; null: not known
// model.losses   of this round's epochs
// model.rounds   a receipt for each update that was sent: { number, state, samples, bytes, … }
// model.lines    what happened: { at, text, tone }
// model.over     nothing more happens
import { h, place, say, set, svg } from "../drawings/dom.js";
import { count, metric, size, timeOfDay } from "../drawings/numbers.js";
import { named, outcome } from "../drawings/verdicts.js";

const STEPS = [["downloading", "Download"], ["training", "Train"], ["uploading", "Upload"]];
const AT = { invited: 0, downloading: 0, training: 1, uploading: 2, uploaded: 3 };
const HEADS = ["Round", "From version", "Samples", "Sent", "Outcome", "Version made"];

function render({ model, el }) {
  const title = h("p", {});
  const chip = h("span", { class: "state" });
  const detail = h("p", { class: "fs-taking-detail", role: "status" });
  const steps = STEPS.map(([name, label]) => step(name, label));
  const loss = curve();
  const rounds = receipts();
  const lines = happened();
  const root = h("div", { class: "fs-taking" },
    h("div", { class: "fs-taking-head" }, title, chip),
    h("ol", { class: "fs-taking-steps", "aria-label": "Steps" }, ...steps.map((one) => one.element)),
    detail, loss.element, rounds.element, lines.element);
  el.classList.add("fedserver");
  el.append(root);

  const draws = {
    now() {
      const { word, title: heading, detail: words, fraction } = model.get("now");
      const over = model.get("over");
      say(title, heading || "Taking part");
      say(chip, over && word !== "failed" ? "ended" : word);
      set(chip, { "data-state": over ? null : word });
      say(detail, words);
      const at = AT[word] ?? -1;
      steps.forEach((one, index) => one.draw(index < at ? "done" : index === at ? "current" : "to-come", fraction));
    },
    losses: () => loss.draw(model.get("losses")),
    rounds: () => rounds.draw(model.get("rounds")),
    lines: () => lines.draw(model.get("lines")),
  };
  draws.over = draws.now;
  for (const [name, draw] of Object.entries(draws)) {
    draw();
    model.on(`change:${name}`, draw);
  }
  return () => {
    for (const [name, draw] of Object.entries(draws)) model.off(`change:${name}`, draw);
    root.remove();
  };
}

function step(name, label) {
  const fill = h("span", { class: "fs-taking-fill" });
  const element = h("li", { class: "fs-taking-step", "data-step": name }, h("span", { class: "fs-taking-track", "aria-hidden": "true" }, fill), label);
  return {
    element,
    draw(when, fraction) {
      set(element, { "data-when": when, "aria-current": when === "current" ? "step" : null });
      fill.style.width = `${when === "done" ? 100 : when === "current" ? Math.max(4, 100 * (fraction ?? 0.5)) : 0}%`;
    },
  };
}

function curve() {
  const line = svg("polyline", {});
  const picture = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" }, line);
  const value = h("strong", {});
  const element = h("div", { class: "fs-taking-loss" }, picture, h("div", {}, "loss", value));
  return {
    element,
    draw(losses) {
      set(element, { hidden: losses.length === 0 });
      if (!losses.length) return;
      const [low, high] = [Math.min(...losses), Math.max(...losses)];
      const x = (index) => (losses.length === 1 ? 0 : (100 * index) / (losses.length - 1));
      const y = (loss) => (high === low ? 50 : 96 - (92 * (loss - low)) / (high - low));
      set(line, { points: losses.map((loss, index) => `${x(index)},${y(loss)}`).join(" ") });
      say(value, metric(losses.at(-1)));
    },
  };
}

function receipts() {
  const body = h("tbody", {});
  const table = h("table", { class: "table" }, h("thead", {}, h("tr", {}, ...HEADS.map((text) => h("th", { scope: "col" }, text)))), body);
  const element = h("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "What came of it" }, table);
  return {
    element,
    draw(rounds) {
      set(element, { hidden: rounds.length === 0 });
      place(body, rounds.map((one) => {
        const found = outcome(one);
        const state = h("span", { class: "state", "data-state": found }, named(found) ?? "");
        const why = ["accepted", "uploaded"].includes(one.state) ? null : h("div", { class: "small quiet" }, one.reason || one.code || "");
        const known = (value, words) => (value === null || value === undefined ? "–" : words(value));
        return h("tr", {},
          h("th", { scope: "row" }, String(one.number ?? one.round)), h("td", {}, known(one.version, String)),
          h("td", {}, known(one.samples, count)), h("td", {}, known(one.bytes, size)),
          h("td", {}, state, why), h("td", {}, known(one.published, String)));
      }));
    },
  };
}

function happened() {
  const list = h("ol", { class: "fs-taking-lines" });
  const element = h("details", {}, h("summary", {}, "What happened"), list);
  const made = [];
  return {
    element,
    draw(lines) {
      const kept = new Map(made.splice(0).map((one) => [`${one.at} ${one.text}`, one]));
      for (const { at, text, tone } of lines) {
        const old = kept.get(`${at} ${text}`);
        made.push(old ?? { at, text, node: h("li", { "data-tone": tone || null }, h("time", { datetime: at }, timeOfDay(at)), h("span", {}, text)) });
      }
      place(list, made.map((one) => one.node).reverse());
    },
  };
}

export default { render };
