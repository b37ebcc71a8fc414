// Where a model's versions come from, and how good each was: one column for each version.
//
// model.data   {metric, versions: [{number, parent, stage, origin, metrics, made_by, reason, href}]}
//              in the order of their numbers; metric names what the lower picture shows, or null
//
// What was ever served stands on the trunk; what was not hangs below it, from the version that it
// was made from. An arc above the trunk leads back to a version that is not the last one served: a
// rollback's, or that of a version made from an older one. Stages have a colour and a shape.
// One version at a time can be reached by Tab, the others by the arrow keys; Enter opens it.
import { formats, onWidth, ticks } from "./chart.js";
import { h, say, svg } from "./dom.js";

const COLUMN = { least: 18, most: 200 };
const EDGE = 24; // beside the first and the last column
const ARC = { least: 16, most: 64 };
const DROP = 34; // from the trunk to what hangs below
const PLOT = 120; // height of the lower picture
const SHAPES = {
  published: "M-8 0a8 8 0 1 0 16 0a8 8 0 1 0 -16 0Z",
  archived: "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0 -11 0Z",
  rollback: "M-5 -5H5V5H-5Z",
  rejected: "M-5 -5L5 5M-5 5L5 -5",
  candidate: "M0 -7L7 0L0 7L-7 0Z",
};
const KEY = [
  ["published", "served"],
  ["archived", "was served"],
  ["rollback", "rollback"],
  ["candidate", "candidate"],
  ["rejected", "rejected"],
];

const isTrunk = (version) => version.stage === "published" || version.stage === "archived";

function shapeOf({ stage, origin }) {
  return stage === "archived" && origin === "rollback" ? "rollback" : stage;
}

function said(version, metric) {
  const parts = [`v${version.number}`, version.stage === "published" ? "served" : version.stage];
  if (version.origin === "rollback") parts.push(`a rollback to v${version.parent}`);
  else if (version.made_by) parts.push(`made by ${version.made_by}`);
  else parts.push(version.origin);
  if (version.origin !== "rollback" && version.parent) parts.push(`from v${version.parent}`);
  const value = metric ? version.metrics[metric] : undefined;
  if (value !== undefined) parts.push(`${metric.replaceAll("_", " ")} ${formats.metric(value)}`);
  return parts.join(", ");
}

function summary(versions) {
  const count = (test) => versions.filter(test).length;
  const served = versions.find((one) => one.stage === "published");
  const parts = [versions.length === 1 ? "One version" : `${versions.length} versions`];
  if (served) parts.push(`v${served.number} is served`);
  for (const [number, word] of [
    [count((one) => one.stage === "rejected"), "rejected"],
    [count((one) => one.stage === "candidate"), "to be decided"],
    [count((one) => one.origin === "rollback"), "by rolling back"],
  ]) if (number) parts.push(`${number} ${word}`);
  return `${parts.join(", ")}.`;
}

function sample(shape) {
  const mark = svg("path", { d: SHAPES[shape], class: `lineage-mark lineage-${shape}` });
  return svg("svg", { viewBox: "-10 -10 20 20", width: 20, height: 20, "aria-hidden": "true" }, mark);
}

class Node {
  constructor() {
    this.mark = svg("path");
    this.value = svg("path", { class: "lineage-value" });
    this.hit = svg("rect", { class: "lineage-hit" });
    this.title = svg("text", { "text-anchor": "middle", "aria-hidden": "true" });
    this.element = svg("a", { tabindex: "-1" }, this.hit, this.mark, this.value, this.title);
  }
}

class Lineage {
  #versions = [];
  #metric = null;
  #nodes = new Map();
  #current = null; // the number of the version that Tab leads to
  #width = 0;
  #shownLast = 0;

  constructor(el) {
    this.summary = h("p", { class: "lineage-summary" });
    this.lines = Object.fromEntries(["grid", "below", "trunk", "gap", "arc", "course"].map((name) =>
      [name, svg("path", { class: `lineage-${name}` })]));
    this.group = svg("g");
    this.svg = svg("svg", { role: "group", "aria-label": "Versions, oldest first" }, ...Object.values(this.lines), this.group);
    this.axis = h("div", { class: "lineage-axis", "aria-hidden": "true" });
    this.scroller = h("div", { class: "lineage-scroller" }, this.svg);
    this.told = h("p", { class: "lineage-told", "aria-hidden": "true" });
    const key = h("ul", { class: "lineage-key", "aria-label": "Shapes" }, ...KEY.map(([shape, words]) => h("li", {}, sample(shape), words)));
    el.replaceChildren(h("div", { class: "lineage" }, this.summary, h("div", { class: "lineage-frame" }, this.axis, this.scroller), this.told, key));
    this.group.addEventListener("keydown", (event) => this.#step(event));
    for (const kind of ["focusin", "pointerover"]) this.group.addEventListener(kind, (event) => this.#tell(event));
    this.stop = onWidth(el, (width) => {
      this.#width = width;
      this.#draw();
    });
  }

  show({ versions = [], metric = null }) {
    this.#versions = versions;
    this.#metric = metric;
    const numbers = new Set(versions.map((one) => one.number));
    if (!numbers.has(this.#current)) this.#current = (versions.find((one) => one.stage === "published") ?? versions.at(-1))?.number;
    for (const [number, node] of this.#nodes) if (!numbers.has(number)) {
      node.element.remove();
      this.#nodes.delete(number);
    }
    say(this.summary, summary(versions));
    this.#pick(this.#current);
    this.#draw();
  }

  #draw() {
    if (!this.#versions.length || !this.#width) return;
    const versions = this.#versions, count = versions.length;
    const room = this.#width - 2 * EDGE - (this.#metric ? 48 : 0);
    const step = Math.min(COLUMN.most, Math.max(COLUMN.least, room / Math.max(1, count - 1)));
    const x = new Map(versions.map((one, place) => [one.number, Math.round(EDGE + place * step)]));
    const arcs = this.#arcs(x);
    const above = Math.max(16, ...arcs.map((arc) => arc.height + 12));
    const hangs = versions.some((one) => !isTrunk(one)) ? DROP : 0;
    const y = (version) => above + (isTrunk(version) ? 0 : DROP);
    const plot = { top: above + hangs + 50, height: this.#metric ? PLOT : 0 };
    const size = { width: Math.round(2 * EDGE + (count - 1) * step), height: plot.top + plot.height + 26 };
    for (const [name, value] of Object.entries(size)) this.svg.setAttribute(name, value);
    this.#drawEdges(x, y, above, arcs);
    const at = this.#drawCourse(x, plot, size.width);
    const every = Math.max(1, Math.ceil(30 / step));
    versions.forEach((version, place) => this.#drawNode(version, { x, y, at, size, step, plot, isNamed: (count - 1 - place) % every === 0 }));
    this.#followNewest(count);
  }

  // Lines that lead back, and how high: the further, the higher.
  #arcs(x) {
    const trunk = this.#versions.filter(isTrunk);
    const arcs = [];
    trunk.forEach((version, place) => {
      const before = trunk[place - 1]?.number;
      if (version.parent && version.parent !== before && x.has(version.parent)) {
        const span = x.get(version.number) - x.get(version.parent);
        arcs.push({ from: version.parent, to: version.number, height: Math.min(ARC.most, ARC.least + Math.sqrt(span) * 1.6) });
      }
    });
    return arcs;
  }

  #drawEdges(x, y, trunkY, arcs) {
    const lines = { trunk: "", gap: "", below: "", arc: "" };
    const byNumber = new Map(this.#versions.map((one) => [one.number, one]));
    let last = null;
    for (const version of this.#versions) {
      const here = x.get(version.number), parent = byNumber.get(version.parent);
      if (isTrunk(version)) {
        if (last) lines[version.parent === last.number ? "trunk" : "gap"] += `M${x.get(last.number)} ${trunkY}H${here}`;
        last = version;
      } else if (parent) {
        const [px, py] = [x.get(parent.number), y(parent)];
        lines.below += `M${px} ${py}C${px} ${py + 26} ${here - 14} ${y(version)} ${here} ${y(version)}`;
      }
    }
    for (const { from, to, height } of arcs) {
      const [a, b] = [x.get(from), x.get(to)];
      lines.arc += `M${b} ${trunkY - 9}C${b} ${trunkY - 9 - height} ${a} ${trunkY - 9 - height} ${a} ${trunkY - 9}m-3.5 -6l3.5 6l3.5 -6`;
    }
    for (const [name, d] of Object.entries(lines)) this.lines[name].setAttribute("d", d);
  }

  // The lower picture: its scale, and the course of what was served.
  #drawCourse(x, plot, width) {
    const values = this.#versions.map((one) => one.metrics[this.#metric]).filter((value) => value !== undefined);
    if (!this.#metric || !values.length) {
      this.axis.replaceChildren();
      this.lines.grid.setAttribute("d", "");
      this.lines.course.setAttribute("d", "");
      return () => null;
    }
    const low = Math.min(...values), span = Math.max(...values) - low;
    const unit = ticks(span || Math.abs(low) || 1, 4)[1];
    const first = Math.floor(low / unit) * unit;
    const marks = [first];
    while (marks.at(-1) < low + span - unit * 1e-6 || marks.length < 2) marks.push(first + marks.length * unit);
    const scale = (value) => plot.top + plot.height * (1 - (value - first) / (marks.at(-1) - first));
    this.lines.grid.setAttribute("d", marks.map((mark) => `M0 ${Math.round(scale(mark)) + 0.5}H${width}`).join(""));
    const digits = Math.max(0, -Math.floor(Math.log10(unit)));
    this.axis.replaceChildren(h("span", { class: "lineage-metric" }, this.#metric.replaceAll("_", " ")), ...marks.map((mark) => h("span", {}, mark.toFixed(digits))));
    marks.forEach((mark, place) => (this.axis.children[place + 1].style.top = `${scale(mark)}px`));
    this.axis.children[0].style.top = `${plot.top - 32}px`;
    const course = this.#versions.filter((one) => isTrunk(one) && one.metrics[this.#metric] !== undefined);
    this.lines.course.setAttribute("d", course.map((one, place) => `${place ? "L" : "M"}${x.get(one.number)} ${scale(one.metrics[this.#metric])}`).join(""));
    return (version) => (version.metrics[this.#metric] === undefined ? null : scale(version.metrics[this.#metric]));
  }

  #drawNode(version, { x, y, at, size, step, isNamed }) {
    const node = this.#nodes.get(version.number) ?? new Node();
    const shape = shapeOf(version), here = x.get(version.number), value = at(version);
    node.element.setAttribute("href", version.href ?? "#");
    node.element.setAttribute("aria-label", said(version, this.#metric));
    node.element.dataset.number = version.number;
    node.mark.setAttribute("d", SHAPES[shape]);
    node.mark.setAttribute("class", `lineage-mark lineage-${shape}`);
    node.mark.setAttribute("transform", `translate(${here} ${y(version)})`);
    node.value.setAttribute("class", `lineage-value lineage-${shape}`);
    node.value.setAttribute("d", value === null ? "" : SHAPES[shape]);
    node.value.setAttribute("transform", `translate(${here} ${value ?? 0}) scale(0.6)`);
    for (const [name, number] of Object.entries({ x: here - step / 2, y: 0, width: step, height: size.height })) node.hit.setAttribute(name, number);
    node.title.setAttribute("x", here);
    node.title.setAttribute("y", size.height - 8);
    say(node.title, isNamed || version.stage === "published" ? `v${version.number}` : "");
    node.title.classList.toggle("lineage-served", version.stage === "published");
    if (!this.#nodes.has(version.number)) {
      this.#nodes.set(version.number, node);
      this.group.append(node.element);
    }
    node.element.setAttribute("tabindex", version.number === this.#current ? "0" : "-1");
  }

  // What is newest is looked at first, and again when something newer has come.
  #followNewest(count) {
    if (count === this.#shownLast) return;
    this.#shownLast = count;
    this.scroller.scrollLeft = this.scroller.scrollWidth;
  }

  #step(event) {
    const place = this.#versions.findIndex((one) => one.number === this.#current);
    const to = {
      ArrowLeft: place - 1, ArrowUp: place - 1, ArrowRight: place + 1, ArrowDown: place + 1,
      PageUp: place - 10, PageDown: place + 10, Home: 0, End: this.#versions.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#pick(this.#versions[Math.min(this.#versions.length - 1, Math.max(0, to))].number);
    this.#nodes.get(this.#current).element.focus();
  }

  #tell(event) {
    const number = Number(event.target.closest("a")?.dataset.number);
    if (number) this.#pick(number, event.type === "focusin");
  }

  #pick(number, takesFocus = true) {
    const version = this.#versions.find((one) => one.number === number);
    if (!version) return;
    if (takesFocus) {
      this.#nodes.get(this.#current)?.element.setAttribute("tabindex", "-1");
      this.#current = number;
      this.#nodes.get(number)?.element.setAttribute("tabindex", "0");
    }
    say(this.told, `${said(version, this.#metric)}.${version.reason ? ` ${version.reason[0].toUpperCase()}${version.reason.slice(1)}.` : ""}`);
  }
}

function render({ model, el }) {
  const lineage = new Lineage(el);
  const show = () => lineage.show(model.get("data") ?? {});
  show();
  model.on("change:data", show);
  return () => {
    model.off("change:data", show);
    lineage.stop();
  };
}

export default { render };
