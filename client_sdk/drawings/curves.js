// A metric of runs, round by round: on the held-out set, and how far the participants lie apart.
//
// model.data     {runs: [history, …]}: the histories of the API, `GET /api/v1/runs/{id}/history`;
//                of the first one the spread is drawn, the others are what it is compared with
// model.metric   "accuracy" (the default), "loss" or another that the versions were measured by
//
// Lines are told apart by colour and by dashes: bold is the held-out set, thin the participants'
// mean, with rings the worst participant; a large ring is about the best version, where a run compares
// its versions by this metric; the band is from the least to the greatest of them, the
// darker one the middle half.
import { Numbers, colour, formats, nameOf, onTheme, onWidth, pick, style } from "./chart.js";
import { h, say, set, svg } from "./dom.js";
import uPlot from "./vendor/uplot/uPlot.esm.js";

const HEIGHT = 260;
const DASHES = [[], [9, 4], [2, 3], [12, 3, 2, 3], [5, 5], [1, 5]];
const COLOURS = 6;

// The values of one run at each number of `xs`; null where there is none.
function valuesOf(run, metric, xs) {
  const rounds = new Map(run.rounds.map((round) => [round.number, round]));
  const at = (read) => xs.map((number) => read(rounds.get(number)) ?? null);
  const spread = (name) => at((round) => round?.participants[metric]?.[name]);
  const heldOut = (published) => (round) =>
    round && (round.phase === "published") === published ? round.metrics[metric] : undefined;
  const lines = { heldOut: at(heldOut(true)), refused: at(heldOut(false)) };
  for (const name of ["min", "q1", "mean", "q3", "max", "worst"]) lines[name] = spread(name);
  if (xs[0] === 0) lines.heldOut[0] = run.start?.metrics[metric] ?? null;
  lines.rounds = xs.map((number) => rounds.get(number));
  const best = run.best?.metric === metric ? run.best.round : null;
  lines.best = xs.map((number, index) => (number === best ? lines.heldOut[index] : null));
  return lines;
}

class Curves {
  #el;
  #metric;
  #runs = [];
  #xs = [];
  #values = [];
  #plot;
  #kind = "";
  #width = 0;
  #heading = h("p", { class: "chart-picked" });
  #list = h("ul", { class: "chart-runs" });
  #entries = [];
  #canvas = h("div", { class: "chart-plot" });
  #key = h("p", { class: "chart-key", "aria-hidden": "true" });

  constructor(el, metric) {
    this.#el = el;
    this.#metric = metric;
    const word = metric[0].toUpperCase() + metric.slice(1).replaceAll("_", " ");
    this.numbers = new Numbers(`${word}, all numbers`);
    this.#canvas.style.height = `${HEIGHT}px`;
    el.replaceChildren(h("div", { class: "chart curves" },
      this.#canvas, this.#key, this.#heading, this.#list, this.numbers.element));
    this.#key.append(...keyOf(metric).map(([kind, text]) => h("span", { "data-kind": kind }, sample(kind), text)));
    this.picker = pick(this.#canvas, `${word}, by round`, {
      count: () => this.#xs.length,
      at: (x) => this.#at(x),
      say: (index) => this.#say(index),
      show: (index) => this.#mark(index),
    });
    const stops = [
      onTheme(() => this.#draw(true)),
      onWidth(this.#canvas, (width) => {
        this.#width = width;
        this.#draw();
      }),
    ];
    this.stop = () => {
      for (const stop of stops) stop();
      this.#plot?.destroy();
    };
  }

  show(runs) {
    this.#runs = runs;
    const last = Math.max(0, ...runs.flatMap((run) => run.rounds.map((round) => round.number)));
    const first = runs.some((run) => run.start?.metrics[this.#metric] !== undefined) ? 0 : 1;
    this.#xs = last ? Array.from({ length: last - first + 1 }, (_, index) => first + index) : [];
    this.#values = runs.map((run) => valuesOf(run, this.#metric, this.#xs));
    const compared = runs.some((run) => run.best?.metric === this.#metric);
    set(this.#key.querySelector("[data-kind=best]"), { hidden: !compared });
    this.#tell();
    this.#draw();
    this.picker.again();
  }

  #tell() {
    if (this.#entries.length !== this.#runs.length) {
      this.#entries = this.#runs.map((_, row) => entry(row, this.#metric));
      this.#list.replaceChildren(...this.#entries.map((one) => one.element));
    }
    const several = this.#runs.length > 1;
    const of = (run, word) => (several ? `${word}, ${run.name} (${run.id})` : word);
    this.numbers.show(
      ["Round", ...this.#runs.flatMap((run) => ["held-out", "mean", "least", "greatest", "worst"].map((word) => of(run, word)))],
      this.#xs.map((number, index) => [
        String(number),
        ...this.#values.flatMap((lines) => [
          formats.metric(lines.heldOut[index] ?? lines.refused[index]),
          formats.metric(lines.mean[index]), formats.metric(lines.min[index]), formats.metric(lines.max[index]),
          this.#worst(lines, index),
        ]),
      ]),
    );
  }

  #worst(lines, index) {
    const who = lines.rounds[index]?.participants[this.#metric]?.worst_participant.name;
    return formats.metric(lines.worst[index]) + (who ? ` (${who})` : "");
  }

  #at(x) {
    if (!this.#plot || !this.#xs.length) return null;
    const number = Math.round(this.#plot.posToVal(x - this.#plot.over.offsetLeft, "x"));
    return Math.min(this.#xs.length - 1, Math.max(0, number - this.#xs[0]));
  }

  #nameAt(index) {
    const number = this.#xs[index];
    if (number === 0) return "Before round 1";
    const round = this.#runs.length === 1 && this.#values[0].rounds[index];
    return round ? nameOf(round) : `Round ${number}`;
  }

  #say(index) {
    const told = this.#values.map((lines, row) => {
      const who = this.#runs.length > 1 ? `${this.#runs[row].name}: ` : "";
      const best = (lines.best[index] ?? null) !== null ? ", the best" : "";
      return `${who}held-out ${formats.metric(lines.heldOut[index] ?? lines.refused[index])}${best}, mean ${formats.metric(lines.mean[index])}, worst ${this.#worst(lines, index)}`;
    });
    return `${this.#nameAt(index)}: ${told.join("; ")}`;
  }

  // The values at one round; without one, of each run's last that has any.
  #mark(index) {
    say(this.#heading, !this.#xs.length ? "No round yet" : index === null ? "Latest" : this.#nameAt(index));
    this.#values.forEach((lines, row) => {
      const known = (at) => lines.heldOut[at] !== null || lines.mean[at] !== null;
      let shown = index ?? this.#xs.length - 1;
      while (index === null && shown > 0 && !known(shown)) shown--;
      const { name, values } = this.#entries[row];
      const run = this.#runs[row];
      const at = index === null && this.#xs.length ? `, ${this.#xs[shown] ? `round ${this.#xs[shown]}` : "before round 1"}` : "";
      say(name, `${run.name} (${run.id})${at}`);
      const refused = (lines.heldOut[shown] ?? null) === null && (lines.refused[shown] ?? null) !== null;
      const best = (lines.best[shown] ?? null) !== null ? " (best)" : "";
      say(values.heldOut, refused ? `${formats.metric(lines.refused[shown])} (refused)` : formats.metric(lines.heldOut[shown]) + best);
      say(values.mean, formats.metric(lines.mean[shown]));
      say(values.worst, this.#worst(lines, shown));
      const [low, high] = [lines.q1[shown] ?? null, lines.q3[shown] ?? null];
      say(values.half, low === null ? "–" : `${formats.metric(low)} to ${formats.metric(high)}`);
    });
    const plot = this.#plot;
    if (!plot) return;
    const left = index === null || !this.#xs.length ? -10 : plot.valToPos(this.#xs[index], "x");
    plot.setCursor({ left, top: -10 }, false);
  }

  // Draws anew where other runs or other colours are to be seen; else it only takes the values.
  #draw(anew = false) {
    if (!this.#width) return;
    const kind = this.#runs.map((run) => run.id).join();
    const data = [this.#xs, ...this.#values.flatMap((lines, row) => linesOf(row).map((line) => lines[line.of]))];
    if (!anew && this.#plot && kind === this.#kind) {
      this.#plot.setSize({ width: this.#width, height: HEIGHT });
      this.#plot.setData(data);
      return;
    }
    this.#kind = kind;
    this.#plot?.destroy();
    this.#plot = new uPlot(this.#options(), data, this.#canvas);
  }

  #options() {
    const paint = (value) => colour(this.#el, value);
    const [text, line, ground] = ["var(--quiet)", "var(--line)", "var(--surface)"].map(paint);
    const font = `12px ${getComputedStyle(this.#el).fontFamily}`;
    const axis = { stroke: text, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 } };
    const series = this.#runs.flatMap((_, row) => linesOf(row).map((one) => seriesOf(one, row, paint, ground)));
    const fill = (share) => paint(`color-mix(in srgb, var(--series-1) ${share}%, transparent)`);
    const place = (name) => 1 + linesOf(0).findIndex((one) => one.of === name);
    return {
      width: this.#width, height: HEIGHT, padding: [8, 12, 0, 0], legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false }, bind: silent },
      focus: { alpha: 1 },
      scales: { x: { time: false, range: (_, least, most) => (least === most ? [least - 1, most + 1] : [least, most]) }, y: { range: (_, ...ends) => this.#range(...ends) } },
      axes: [
        { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], space: 36, size: 30, values: (_, marks) => marks.map(String) },
        { ...axis, size: 52, values: (_, marks) => marks.map((mark) => String(Number(mark.toPrecision(6)))) },
      ],
      series: [{}, ...series],
      bands: this.#runs.length ? [
        { series: [place("max"), place("min")], fill: fill(12) },
        { series: [place("q3"), place("q1")], fill: fill(22) },
      ] : [],
    };
  }

  #range(least, most) {
    if (least === null || most === null) return [0, 1];
    const room = (most - least || Math.abs(most) || 1) * 0.08;
    const share = this.#metric.endsWith("accuracy");
    const floor = least >= 0 ? 0 : -Infinity; // what never was negative is not drawn so
    return [Math.max(floor, least - room), share ? Math.min(1, most + room) : most + room];
  }
}

// uPlot's own ears would move its cursor as well: `pick` does that, for the keyboard too.
const silent = Object.fromEntries(
  ["mousedown", "mouseup", "click", "dblclick", "mousemove", "mouseleave", "mouseenter"].map((name) => [name, () => null]),
);

// The lines of one run, from below to above; the spread is drawn of the first run only.
const SPREAD = [{ of: "max" }, { of: "min" }, { of: "q3" }, { of: "q1" }];
const COMMON = [{ of: "worst", width: 1.25, ring: true }, { of: "refused", cross: true }, { of: "heldOut", width: 2.75 }, { of: "best", star: true }];
const MEAN = { of: "mean", width: 1.25 };

function linesOf(row) {
  return row === 0 ? [...SPREAD, MEAN, ...COMMON] : COMMON;
}

function seriesOf(line, row, paint, ground) {
  const stroke = paint(line.cross ? "var(--bad)" : `var(--series-${(row % COLOURS) + 1})`);
  if (line.star) return { stroke, width: 0, paths: () => null, points: { show: true, size: 15, width: 2, stroke, fill: "transparent" } };
  if (line.cross) return { stroke, width: 0, paths: () => null, points: { show: true, size: 9, width: 2, stroke, fill: ground } };
  if (!line.width) return { stroke, width: 0, points: { show: false }, spanGaps: false };
  const many = (plot) => plot.data[0].length <= 60;
  return {
    stroke, width: line.width, spanGaps: true,
    dash: line.of === "mean" ? [3, 3] : DASHES[row % DASHES.length],
    points: { show: line.of === "mean" ? false : many, size: line.ring ? 5 : 6, width: 1.25, stroke, fill: line.ring ? ground : stroke },
  };
}

const KEY = [
  ["heldOut", "held-out set"], ["mean", "participants’ mean"], ["worst", "worst participant"],
  ["half", "middle half"], ["all", "least to greatest"], ["best", "best version"],
];

// What participants measured on data of their own is one number of each version, and has no spread.
const isFederated = (metric) => metric.startsWith("federated_");
const keyOf = (metric) =>
  isFederated(metric) ? [["heldOut", "mean over participants, on data of their own"], ["best", "best version"]] : KEY;

// A small picture of how something is drawn, for keys and legends.
function sample(kind, row = 0) {
  const picture = svg("svg", { width: 28, height: 12, "aria-hidden": "true", class: "chart-sample" });
  if (kind === "half" || kind === "all") {
    picture.append(svg("rect", { width: 28, height: 12, rx: 2, class: `chart-band-${kind}` }));
    return picture;
  }
  const dash = kind === "mean" ? [3, 3] : DASHES[row % DASHES.length];
  picture.append(svg("line", { x1: 0, x2: 28, y1: 6, y2: 6, class: `chart-line-${kind}`, "stroke-dasharray": dash.join(" ") || null, "data-series": (row % COLOURS) + 1 }));
  if (kind === "best") picture.append(svg("circle", { cx: 14, cy: 6, r: 5, class: "chart-ring chart-best" }));
  if (kind === "worst") picture.append(svg("circle", { cx: 14, cy: 6, r: 3, class: "chart-ring" }));
  return picture;
}

// A run in the legend: how it is drawn, its name, and its values.
function entry(row, metric) {
  const name = h("span");
  const values = {};
  const facts = [["heldOut", "held-out"], ["mean", "mean"], ["worst", "worst"], ["half", "middle half"]];
  const list = h("dl", {}, ...facts.map(([key, word]) => {
    values[key] = h("dd", {}, "–");
    if (!isFederated(metric)) return h("div", {}, h("dt", {}, word), values[key]);
    return key === "heldOut" ? h("div", {}, h("dt", {}, "participants' mean"), values[key]) : null;
  }));
  const head = h("p", {}, sample("heldOut", row), name);
  return { element: h("li", {}, head, list), name, values };
}

function render({ model, el }) {
  const drawn = new Curves(el, model.get("metric") ?? "accuracy");
  const show = () => drawn.show(model.get("data")?.runs ?? []);
  Promise.all([style("./charts.css"), style("./vendor/uplot/uPlot.min.css")]).then(show);
  model.on("change:data", show);
  return () => {
    model.off("change:data", show);
    drawn.stop();
    el.replaceChildren();
  };
}

export default { render };
