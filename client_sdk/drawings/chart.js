// What pictures of series share: colours of the page, sizes, ticks, and a way to read values
// by mouse, by touch and by keyboard.
import { h, say } from "./dom.js";
import { count, size } from "./numbers.js";

// The colour that a CSS value has here and now, for a canvas, which knows no custom properties.
export function colour(host, value) {
  const probe = h("span");
  probe.style.display = "none";
  probe.style.color = value;
  host.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

// Calls back when the page changes between light and dark; answers how to end that.
export function onTheme(callback) {
  const watcher = new MutationObserver(callback);
  for (const element of [document.documentElement, document.body]) {
    watcher.observe(element, { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light"] });
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", callback);
  return () => {
    watcher.disconnect();
    dark.removeEventListener("change", callback);
  };
}

// Calls back with the width of an element, now and whenever it changes.
export function onWidth(element, callback) {
  let last = 0;
  const watcher = new ResizeObserver(() => {
    const width = Math.floor(element.clientWidth);
    if (width > 0 && width !== last) callback((last = width));
  });
  watcher.observe(element);
  return () => watcher.disconnect();
}

// Round numbers from 0 up to at least `most`, about `count` of them; for times, those of a clock.
export function ticks(most, count, kind = "number") {
  if (!(most > 0)) return [0, 1];
  const rough = most / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
  if (kind === "whole") step = Math.max(1, Math.ceil(step));
  if (kind === "time" && rough > 5) step = CLOCK.find((one) => one >= rough) ?? 86400 * Math.ceil(rough / 86400);
  const found = [];
  for (let index = 0; found.length === 0 || found.at(-1) < most * 0.999; index++) found.push(index * step);
  return found;
}

const CLOCK = [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
const LENGTHS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
];

export const formats = {
  count: (value) => (value === null ? "–" : count(value)),
  metric: (value) => (value === null || value === undefined ? "–" : value.toFixed(Math.abs(value) < 10 ? 3 : 1)),
  seconds: (value) => {
    if (value === null || value === undefined) return "–";
    const found = LENGTHS.find(([length]) => value >= length);
    if (!found) return value < 10 ? `${Number(value.toFixed(1))} s` : `${Math.round(value)} s`;
    const [length, unit] = found;
    return `${Number((value / length).toFixed(1))} ${unit}`;
  },
  bytes: (value) => (value === null || value === undefined ? "–" : size(value)),
};

// Makes an element the place where a round is picked: by arrows, Home and End, and by pointer.
//
// It is a slider to whoever hears the page: each value is said when it is picked.
// `options.count()` is how many there are, `options.at(x)` which one lies at an offset in pixels,
// `options.say(index)` its words, `options.show(index)` marks it; null marks none.
export function pick(element, label, options) {
  let current = null;
  element.tabIndex = 0;
  element.setAttribute("role", "slider");
  element.setAttribute("aria-label", label);
  element.setAttribute("aria-orientation", "horizontal");

  function show(index) {
    current = index;
    const last = options.count() - 1;
    const told = index ?? last;
    element.setAttribute("aria-valuemin", 0);
    element.setAttribute("aria-valuemax", Math.max(0, last));
    element.setAttribute("aria-valuenow", Math.max(0, told));
    element.setAttribute("aria-valuetext", last < 0 ? "nothing yet" : options.say(told));
    options.show(index);
  }

  function onKey(event) {
    const last = options.count() - 1;
    if (last < 0) return;
    const from = current ?? last;
    const to = {
      ArrowLeft: from - 1, ArrowDown: from - 1, ArrowRight: from + 1, ArrowUp: from + 1,
      PageDown: from - 10, PageUp: from + 10, Home: 0, End: last, Escape: null,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to === null ? null : Math.min(last, Math.max(0, to)));
  }

  const onMove = (event) => show(options.at(event.clientX - element.getBoundingClientRect().left));
  const onLeave = () => show(null);
  element.addEventListener("keydown", onKey);
  element.addEventListener("pointermove", onMove);
  element.addEventListener("pointerdown", onMove);
  element.addEventListener("pointerleave", onLeave);
  element.addEventListener("blur", onLeave);
  return { again: () => show(current === null || current >= options.count() ? null : current) };
}

// A table of all numbers below a picture, closed until somebody wants it.
export class Numbers {
  #summary = h("summary", {}, "All numbers");
  #table = h("table", { class: "table" });
  #scroller;

  constructor(label) {
    this.#scroller = h("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": label }, this.#table);
    this.element = h("details", { class: "chart-numbers" }, this.#summary, this.#scroller);
  }

  // Draws it again: heads are texts, rows are lists of texts; cells are kept, only texts change.
  show(heads, rows) {
    const all = [heads, ...rows];
    if (this.#table.rows.length !== all.length || this.#table.rows[0]?.cells.length !== heads.length) {
      const line = (cells, head) =>
        h("tr", {}, ...cells.map((_, index) =>
          h(head || index === 0 ? "th" : "td", { class: index ? "number" : null, scope: head ? "col" : index ? null : "row" })));
      this.#table.replaceChildren(
        h("thead", {}, line(heads, true)),
        h("tbody", {}, ...rows.map((row) => line(row, false))),
      );
    }
    all.forEach((cells, row) => cells.forEach((text, index) => say(this.#table.rows[row].cells[index], text)));
  }
}

// What a round is called where its values are told.
export function nameOf(round) {
  const ended = { failed: "failed", cancelled: "cancelled" }[round.phase];
  const why = round.code && ended && round.code !== ended ? `: ${round.code.replaceAll("_", " ")}` : "";
  const open = ["selecting", "training", "aggregating", "evaluating"].includes(round.phase);
  return `Round ${round.number}${ended ? ` (${ended}${why})` : open ? ` (${round.phase})` : ""}`;
}

// Loads a style sheet that lies beside this module, once for the page; a host that has made one text
// of all modules has the styles there already.
export function style(path) {
  if (import.meta.url.startsWith("blob:")) return Promise.resolve();
  const href = new URL(path, import.meta.url).href;
  for (const link of document.querySelectorAll("link[rel=stylesheet]")) if (link.href === href) return Promise.resolve();
  return new Promise((done) => {
    const link = h("link", { rel: "stylesheet", href });
    link.addEventListener("load", done, { once: true });
    link.addEventListener("error", done, { once: true });
    document.head.append(link);
  });
}
