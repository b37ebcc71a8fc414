// Who is taken for whom: a model's answers on held-out examples, by true class.
//
// model.data   {labels: [name, …], counts: [[n, …], …]}: one row of counts for each true class
//
// Up to LEGIBLE classes it is a table with a number in each cell. Beyond that each cell is a square
// whose size says what its colour says, and one cell at a time is told in words: under the mouse,
// or where the arrow keys have gone. What is wrong most often stands beside it in sentences.
import { colour, onTheme, onWidth } from "./chart.js";
import { h, say } from "./dom.js";

const LEGIBLE = 20; // classes
const WORST = 8; // mistakes told in sentences
const DARKEST = 45; // percent of colour in a cell
const SQUARE = { least: 5, most: 26 }; // pixels
const GUTTER = 88; // pixels at most for names
const FONT = 11;

const sum = (row) => row.reduce((total, count) => total + count, 0);
const percent = (part, whole) => (whole ? (100 * part) / whole : 0);

function rounded(value) {
  if (value === 0) return "0";
  if (value === 100) return "100";
  return value < 0.95 ? "<1" : value > 99.5 ? "99" : String(Math.round(value));
}

function times(count) {
  return count === 1 ? "once" : `${count} times`;
}

// The largest numbers off the diagonal.
function mistakes(counts) {
  const found = [];
  counts.forEach((row, truth) => row.forEach((count, given) => {
    if (truth !== given && count) found.push({ truth, given, count });
  }));
  return found.sort((one, other) => other.count - one.count).slice(0, WORST);
}

function told({ labels, counts }, truth, given) {
  const count = counts[truth][given], whole = sum(counts[truth]);
  const share = `${count} of ${whole} (${percent(count, whole).toFixed(1)} %)`;
  return truth === given
    ? `${labels[truth]} is recognised in ${share}.`
    : `${labels[truth]} is taken for ${labels[given]} in ${share}.`;
}

// Up to LEGIBLE classes: a table.
class Table {
  #cells = [];
  #key = "";

  constructor() {
    this.table = h("table", { class: "confusion-table" });
    this.element = h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Confusion matrix" }, this.table);
  }

  #build(labels) {
    const key = JSON.stringify(labels);
    if (key === this.#key) return;
    this.#key = key;
    const heads = labels.map((label) => h("th", { scope: "col" }, label));
    const top = h("tr", {}, h("th", { class: "confusion-corner", scope: "col" }, "true ↓"), ...heads,
      h("th", { scope: "col", class: "confusion-total" }, "examples"));
    const over = h("tr", { class: "confusion-over" }, h("td"),
      h("th", { colspan: labels.length, scope: "colgroup" }, "given"), h("td"));
    this.#cells = labels.map(() => [...labels.map(() => h("td")), h("td", { class: "confusion-total" })]);
    const rows = labels.map((label, place) => h("tr", {}, h("th", { scope: "row" }, label), ...this.#cells[place]));
    this.table.replaceChildren(h("caption", { class: "hidden-but-read" }, "Rows are true classes, columns what the model said"),
      h("thead", {}, over, top), h("tbody", {}, ...rows));
  }

  show(data, asShares) {
    this.#build(data.labels);
    data.counts.forEach((row, truth) => {
      const whole = sum(row);
      row.forEach((count, given) => {
        const cell = this.#cells[truth][given], part = percent(count, whole);
        say(cell, asShares ? (whole ? rounded(part) : "–") : String(count));
        cell.classList.toggle("right", truth === given);
        cell.classList.toggle("none", !count);
        // Rare mistakes are what one looks for; and never so dark that a number could not be read.
        const tint = truth === given ? part / 100 : Math.sqrt(part / 100);
        cell.style.setProperty("--part", `${Math.round(DARKEST * tint)}%`);
        cell.title = told(data, truth, given);
      });
      say(this.#cells[truth][row.length], String(whole));
    });
  }

  stop() {}
}

// More than that: squares.
class Squares {
  #data;
  #asShares = true;
  #at = { truth: 0, given: 0 };
  #side = 8;
  #gutter = 0; // beside and above the squares, for names

  constructor() {
    this.canvas = h("canvas", {
      tabindex: "0", role: "application", "aria-label": "Confusion matrix: rows are true classes, columns what the model said. The arrow keys go from cell to cell",
    });
    this.words = h("p", { class: "confusion-words", role: "status" });
    this.frame = h("div", { class: "confusion-frame" }, this.canvas);
    this.element = h("div", { class: "confusion-squares" },
      h("p", { class: "small quiet", "aria-hidden": "true" }, "Rows are true classes, columns what the model said; the larger a square, the greater its share of the row."),
      this.frame, this.words);
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.#point(event));
    this.canvas.addEventListener("keydown", (event) => this.#step(event));
    const stops = [onTheme(() => this.#draw()), onWidth(this.frame, () => this.#draw())];
    this.stop = () => stops.forEach((stop) => stop());
  }

  show(data, asShares) {
    this.#data = data;
    this.#asShares = asShares;
    this.#go(0, 0);
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const place = (offset) => Math.floor((offset - this.#gutter) / this.#side);
    this.#go(place(event.clientY - box.top), place(event.clientX - box.left));
  }

  #step(event) {
    const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    this.#go(this.#at.truth + way[0], this.#at.given + way[1]);
  }

  #go(truth, given) {
    const last = this.#data.labels.length - 1;
    this.#at = { truth: Math.min(last, Math.max(0, truth)), given: Math.min(last, Math.max(0, given)) };
    say(this.words, told(this.#data, this.#at.truth, this.#at.given));
    this.#draw();
  }

  #draw() {
    const width = this.frame.clientWidth;
    if (!this.#data || !width) return;
    const { counts, labels } = this.#data, classes = counts.length, density = devicePixelRatio || 1;
    const brush = this.canvas.getContext("2d");
    brush.font = `${FONT}px ${getComputedStyle(this.frame).fontFamily}`;
    const gutter = Math.ceil(Math.min(GUTTER, Math.max(...labels.map((label) => brush.measureText(label).width)))) + 8;
    const side = Math.max(SQUARE.least, Math.min(SQUARE.most, Math.floor((width - gutter) / classes)));
    const size = gutter + side * classes;
    [this.#side, this.#gutter] = [side, gutter];
    this.canvas.width = this.canvas.height = size * density;
    this.canvas.style.width = this.canvas.style.height = `${size}px`;
    brush.scale(density, density);
    const tones = Object.fromEntries(["sunken", "line", "accent", "bad", "text", "quiet"].map((name) => [name, colour(this.frame, `var(--${name})`)]));
    this.#drawNames(brush, tones);
    brush.translate(gutter, gutter);
    this.#drawCells(brush, tones);
    brush.strokeStyle = tones.text;
    brush.lineWidth = 2;
    brush.strokeRect(this.#at.given * side, this.#at.truth * side, side, side);
  }

  // As many names as there is room for, and always those of the cell that is told.
  #drawNames(brush, tones) {
    const { labels } = this.#data, side = this.#side, gutter = this.#gutter;
    const every = Math.max(1, Math.ceil((FONT + 2) / side));
    brush.font = `${FONT}px ${getComputedStyle(this.frame).fontFamily}`;
    brush.textAlign = "right";
    brush.textBaseline = "middle";
    const names = (at, draw) => labels.forEach((label, place) => {
      const told = place === at, near = Math.abs(place - at) < every;
      if (!told && (near || place % every)) return;
      brush.fillStyle = told ? tones.text : tones.quiet;
      draw(label, gutter + (place + 0.5) * side);
    });
    names(this.#at.truth, (label, middle) => brush.fillText(label, gutter - 5, middle, gutter - 8));
    names(this.#at.given, (label, middle) => {
      brush.save();
      brush.translate(middle, gutter - 5);
      brush.rotate(Math.PI / 2);
      brush.fillText(label, 0, 0, gutter - 8);
      brush.restore();
    });
  }

  #drawCells(brush, tones) {
    const { counts } = this.#data, side = this.#side, size = side * counts.length;
    brush.fillStyle = tones.sunken;
    brush.fillRect(0, 0, size, size);
    brush.fillStyle = tones.line;
    for (let place = 0; place <= counts.length; place += 5) {
      brush.fillRect(place * side, 0, 1, size);
      brush.fillRect(0, place * side, size, 1);
    }
    const most = Math.max(1, ...counts.map((row) => Math.max(...row)));
    counts.forEach((row, truth) => {
      const whole = this.#asShares ? sum(row) : most;
      row.forEach((count, given) => {
        if (!count) return;
        const edge = Math.max(2, (side - 1) * Math.sqrt(count / (whole || 1)));
        brush.fillStyle = truth === given ? tones.accent : tones.bad;
        brush.globalAlpha = 0.25; // the whole cell, or rare mistakes would be specks
        brush.fillRect(given * side, truth * side, side, side);
        brush.globalAlpha = 1;
        brush.fillRect(given * side + (side - edge) / 2, truth * side + (side - edge) / 2, edge, edge);
      });
    });
  }
}

let drawings = 0;

function switches(onChange) {
  const name = `confusion-${(drawings += 1)}`;
  const choice = (value, words, checked) => {
    const input = h("input", { type: "radio", name, value, checked });
    input.addEventListener("change", () => onChange(value === "shares"));
    return h("label", {}, input, ` ${words}`);
  };
  return h("fieldset", { class: "confusion-switch" }, h("legend", { class: "hidden-but-read" }, "Numbers in the matrix"),
    choice("shares", "percent of the true class", true), choice("counts", "examples", false));
}

function render({ model, el }) {
  const worst = h("ul", { class: "confusion-worst" });
  const heading = h("h3", {}, "Most often mistaken");
  const aside = h("div", { class: "confusion-aside" }, heading, worst);
  const place = h("div", { class: "confusion-picture" });
  let matrix, asShares = true;
  const chooser = switches((chosen) => {
    asShares = chosen;
    show();
  });
  el.replaceChildren(h("div", { class: "confusion" }, chooser, h("div", { class: "confusion-parts" }, place, aside)));

  function show() {
    const data = model.get("data");
    if (!data?.counts?.length) return;
    const kind = data.labels.length > LEGIBLE ? Squares : Table;
    if (!(matrix instanceof kind)) {
      matrix?.stop();
      matrix = new kind();
      place.replaceChildren(matrix.element);
    }
    matrix.show(data, asShares);
    const found = mistakes(data.counts);
    worst.replaceChildren(...found.map(({ truth, given, count }) =>
      h("li", {}, h("strong", {}, data.labels[truth]), " taken for ", h("strong", {}, data.labels[given]), `: ${times(count)}`)));
    aside.hidden = !found.length;
  }

  show();
  model.on("change:data", show);
  return () => {
    model.off("change:data", show);
    matrix?.stop();
  };
}

export default { render };
