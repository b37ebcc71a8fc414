// What became of each round, as stacked bars: assignments by outcome, seconds by phase, or bytes.
//
// model.data      {runs: [history, …]}: the histories of the API, `GET /api/v1/runs/{id}/history`;
//                 the first one is drawn
// model.measure   "outcomes" (the default), "seconds" or "bytes"
import { Numbers, formats, nameOf, onWidth, pick, style, ticks } from "./chart.js";
import { h, say, svg } from "./dom.js";
import { VOID, named } from "./verdicts.js";

const HEIGHT = 200;
const LEFT = 52;
const BELOW = 26;
const ABOVE = 8;

const of = (group, key) => (round) => round[group][key] ?? 0;
const ENDED = ["accepted", "quarantined", "rejected", "failed", "late", "lost", "withdrawn"];
// Of those in a state some may have ended with their round or run, which is told apart.
const ended = (state) => (round) => round.counts[state] - (round.void?.[state] ?? 0);
const unused = (round) => Object.values(round.void ?? {}).reduce((sum, number) => sum + number, 0);
const atWork = (round) => round.counts.invited - ENDED.reduce((sum, state) => sum + round.counts[state], 0);

const MEASURES = {
  outcomes: {
    title: "Assignments by outcome", format: formats.count, kind: "whole",
    parts: [...ENDED.map((state) => [state, state, ended(state)]), [VOID, named(VOID), unused], ["work", "still at it", atWork]],
  },
  seconds: {
    title: "Time by phase", format: formats.seconds, kind: "time",
    parts: ["selecting", "training", "aggregating", "evaluating"].map((phase) => [phase, phase, of("seconds", phase)]),
  },
  bytes: {
    title: "Bytes moved", format: formats.bytes, kind: "number",
    parts: [
      ["received", "received in updates", (round) => round.bytes_received],
      ["sent", "sent as weights (estimate)", (round) => round.bytes_sent_estimate],
    ],
  },
};

let made = 0;

class Outcomes {
  #rounds = [];
  #measure;
  #width = 0;
  #picked = null;
  #swatches = new Map();
  #heading = h("p", { class: "chart-picked" });
  #legend = h("ul", { class: "chart-legend" });
  #svg = svg("svg", { "aria-hidden": "true", height: HEIGHT });
  #plot = h("div", { class: "chart-plot" }, this.#svg);
  #id = `outcomes-${++made}`;

  constructor(el, measure) {
    this.#measure = MEASURES[measure] ?? MEASURES.outcomes;
    this.numbers = new Numbers(`${this.#measure.title}, all numbers`);
    this.#plot.style.height = `${HEIGHT}px`;
    el.replaceChildren(h("div", { class: "chart outcomes" }, this.#heading, this.#plot, this.#legend, this.numbers.element));
    this.#legend.append(...this.#measure.parts.map((part) => this.#entry(...part)));
    this.picker = pick(this.#plot, `${this.#measure.title}, by round`, {
      count: () => this.#rounds.length,
      at: (x) => this.#at(x),
      say: (index) => this.#say(this.#rounds[index]),
      show: (index) => this.#mark(index),
    });
    this.stop = onWidth(this.#plot, (width) => {
      this.#width = width;
      this.#draw();
    });
  }

  show(rounds) {
    this.#rounds = rounds;
    const { parts, format } = this.#measure;
    this.numbers.show(
      ["Round", ...parts.map(([, word]) => word)],
      rounds.map((round) => [String(round.number), ...parts.map(([, , value]) => format(value(round)))]),
    );
    this.#draw();
    this.picker.again();
  }

  #entry(key, word) {
    const value = h("output", { class: "chart-value" });
    this.#swatches.set(key, value);
    const box = svg("rect", { width: 12, height: 12, rx: 2, class: "chart-part", "data-part": key, fill: this.#fill(key) });
    const swatch = svg("svg", { width: 12, height: 12, "aria-hidden": "true" }, box);
    return h("li", {}, swatch, h("span", {}, word), value);
  }

  #say(round) {
    const { parts, format } = this.#measure;
    const told = parts.filter(([, , value]) => value(round) > 0);
    return `${nameOf(round)}: ${told.map(([, word, value]) => `${word} ${format(value(round))}`).join(", ") || "nothing yet"}`;
  }

  // Hatched where a colour alone would have to tell two outcomes apart.
  #fill(key) {
    return HATCHED.has(key) ? `url(#${this.#id}-${key})` : null;
  }

  get #slot() {
    return (this.#width - LEFT) / Math.max(1, this.#rounds.length);
  }

  #at(x) {
    if (!this.#rounds.length || x < LEFT) return null;
    return Math.min(this.#rounds.length - 1, Math.floor((x - LEFT) / this.#slot));
  }

  #mark(index) {
    this.#picked = index;
    const round = this.#rounds[index ?? this.#rounds.length - 1];
    say(this.#heading, round ? nameOf(round) : "No round yet");
    for (const [key, , value] of this.#measure.parts) {
      say(this.#swatches.get(key), round ? this.#measure.format(value(round)) : "–");
    }
    for (const column of this.#svg.querySelectorAll(".chart-column")) {
      column.classList.toggle("chart-dim", index !== null && Number(column.dataset.index) !== index);
    }
  }

  #draw() {
    if (!this.#width) return;
    const sum = (round) => this.#measure.parts.reduce((total, [, , value]) => total + value(round), 0);
    const marks = ticks(Math.max(0, ...this.#rounds.map(sum)), 4, this.#measure.kind);
    const scale = (HEIGHT - ABOVE - BELOW) / marks.at(-1);
    const y = (value) => HEIGHT - BELOW - value * scale;
    this.#svg.setAttribute("width", this.#width);
    this.#svg.replaceChildren(
      this.#patterns(),
      ...marks.map((mark) => this.#gridLine(mark, y(mark))),
      ...this.#rounds.map((round, index) => this.#column(round, index, y)),
      ...this.#labels(),
    );
    this.#mark(this.#picked);
  }

  #patterns() {
    const hatch = (key) =>
      svg("pattern", { id: `${this.#id}-${key}`, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)", class: "chart-part", "data-part": key },
        svg("rect", { width: 5, height: 5, class: "chart-hatch-ground" }),
        svg("rect", { width: 2.5, height: 5 }));
    return svg("defs", {}, ...[...HATCHED].map(hatch));
  }

  #gridLine(mark, y) {
    return svg("g", { class: "chart-grid" },
      svg("line", { x1: LEFT, x2: this.#width, y1: y, y2: y }),
      svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, this.#measure.format(mark)));
  }

  #column(round, index, y) {
    const slot = this.#slot;
    const width = Math.max(1, Math.min(44, slot * 0.72));
    const x = LEFT + slot * index + (slot - width) / 2;
    const column = svg("g", { class: "chart-column", "data-index": index });
    let total = 0;
    for (const [key, , value] of this.#measure.parts) {
      const amount = value(round);
      if (!(amount > 0)) continue;
      const top = y(total + amount);
      column.append(svg("rect", { x, width, y: top, height: Math.max(0.5, y(total) - top), class: "chart-part", "data-part": key, fill: this.#fill(key) }));
      total += amount;
    }
    return column;
  }

  #labels() {
    const every = ticks(this.#rounds.length, Math.max(2, this.#width / 48), "whole")[1];
    return this.#rounds.flatMap((round, index) => {
      const failed = round.phase === "failed" || round.phase === "cancelled";
      const named = round.number % every === 0 || this.#rounds.length === 1;
      const text = [named || (failed && this.#slot > 30) ? round.number : "", failed && this.#slot > 8 ? "✕" : ""].join(" ").trim();
      if (!text) return [];
      const x = LEFT + this.#slot * (index + 0.5);
      return [svg("text", { x, y: HEIGHT - 8, "text-anchor": "middle", class: failed ? "chart-failed" : null }, text)];
    });
  }
}

const HATCHED = new Set(["quarantined", "failed", "lost", "withdrawn", "work", "sent"]);

function render({ model, el }) {
  const drawn = new Outcomes(el, model.get("measure"));
  const show = () => drawn.show(model.get("data")?.runs?.[0]?.rounds ?? []);
  style("./charts.css").then(show);
  model.on("change:data", show);
  return () => {
    model.off("change:data", show);
    drawn.stop();
    el.replaceChildren();
  };
}

export default { render };
