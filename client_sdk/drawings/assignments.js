// Who is in a round, and what each of them is doing: a row for each assignment.
//
// `data` is the state of a round, `offset` the server's time less ours, `links` may have a pattern for
// "participant". A row whose assignment did not end well opens: the drawing then sets `asked` to its id,
// and shows what the host puts into `details`: { id: { detail } } or { id: { error } }.
import { h, place, say, set } from "./dom.js";
import { assignmentEnd } from "./forecast.js";
import { ago, count, metric, share, timeOfDay } from "./numbers.js";
import { now, onTick } from "./ticks.js";
import { VOID, named, outcome, outcomes } from "./verdicts.js";

const RANK = ["training", "invited", "uploaded", "accepted", VOID, "failed", "rejected", "quarantined", "late", "lost", "withdrawn"];
const ILL = new Set(["failed", "rejected", "quarantined", "late", "lost", "withdrawn"]);
const STEPS = { "": 0, downloading: 0, training: 1, uploading: 2 };

const lossOf = (one) => one.update?.metrics.loss ?? one.metrics.loss ?? null;
const isOpen = (one) => one.state === "invited" || one.state === "training";
const isIll = (one) => ILL.has(one.state) || one.refusals > 0;

// Columns: what they are called, and by what they are sorted. null goes last, always.
const COLUMNS = [
  { id: "name", label: "Participant", by: (one) => one.participant.name.toLowerCase() },
  { id: "state", label: "State", by: (one, { round }) => RANK.indexOf(outcome(one, round.code)) },
  { id: "activity", label: "Progress", by: (one) => (one.update ? 3 : isOpen(one) ? STEPS[one.activity] + one.fraction : null), down: true },
  { id: "loss", label: "Loss", by: lossOf },
  { id: "samples", label: "Samples", by: (one) => one.update?.samples ?? null, down: true },
  { id: "norm", label: "Norm", by: (one) => one.update?.norm ?? null, down: true },
  { id: "seen", label: "Seen", by: (one) => (one.last_seen_at ? -Date.parse(one.last_seen_at) : null) },
  { id: "end", label: "Done", by: (one, state, time) => assignmentEnd(one, state, time) },
];

function render({ model, el }) {
  const view = new Table(model);
  el.append(view.element);
  const draw = () => view.draw();
  draw();
  const names = ["change:data", "change:details"];
  for (const name of names) model.on(name, draw);
  const stop = onTick(() => view.tick());
  return () => {
    for (const name of names) model.off(name, draw);
    stop();
    view.element.remove();
  };
}

class Table {
  #model;
  #rows = new Map();
  #sort = { column: COLUMNS[0], down: false };
  #outcome = null; // shown alone, or null for all
  #drawn = null;
  #buttons = new Map();

  constructor(model) {
    this.#model = model;
    this.body = h("tbody", { role: "rowgroup" });
    this.filters = h("div", { class: "fs-filters", role: "group", "aria-label": "Show" });
    this.note = h("p", { class: "fs-nobody" });
    const head = h("tr", { role: "row" }, ...COLUMNS.map((column) => this.#heading(column)));
    const table = h(
      "table",
      { class: "fs-assignments", role: "table" },
      h("thead", { role: "rowgroup" }, head),
      this.body,
    );
    const scroller = h("div", { class: "fs-assignments-scroll", tabindex: "0", role: "group", "aria-label": "Assignments" }, table);
    this.scroller = scroller;
    this.element = h("div", { class: "fs-assignments-all" }, this.filters, scroller, this.note);
  }

  #heading(column) {
    const button = h("button", { type: "button", class: "fs-sort" }, column.label);
    button.addEventListener("click", () => this.#sortBy(column));
    const heading = h("th", { role: "columnheader", scope: "col", class: `fs-col-${column.id}` }, button);
    this.#buttons.set(column.id, heading);
    return heading;
  }

  #sortBy(column) {
    const again = this.#sort.column === column;
    this.#sort = { column, down: again ? !this.#sort.down : Boolean(column.down) };
    this.draw();
  }

  draw() {
    const state = this.#model.get("data");
    if (!state) return;
    const time = now(this.#model);
    this.#drawn = state;
    this.#drawFilters(state);
    for (const [id, heading] of this.#buttons) {
      const sorted = this.#sort.column.id === id;
      set(heading, { "aria-sort": sorted ? (this.#sort.down ? "descending" : "ascending") : "none" });
    }
    const details = this.#model.get("details") ?? {};
    const nodes = [];
    for (const one of this.#arranged(state, time)) {
      const row = this.#row(one.id);
      row.draw(one, state, time, details[one.id]);
      nodes.push(row.element);
      if (row.open) nodes.push(row.detail);
    }
    place(this.body, nodes);
    const { length } = state.assignments;
    set(this.scroller, { hidden: !length, "data-many": length > 30 });
    say(this.note, state.assignments.length ? "" : nobody(state));
  }

  /** What changes with the time alone. */
  tick() {
    const state = this.#drawn;
    if (!state) return;
    const time = now(this.#model);
    for (const one of state.assignments) this.#rows.get(one.id)?.tick(one, state, time);
  }

  #row(id) {
    if (!this.#rows.has(id)) this.#rows.set(id, new Row(id, this.#model, () => this.draw()));
    return this.#rows.get(id);
  }

  #arranged(state, time) {
    const { column, down } = this.#sort;
    const fits = (one) => !this.#outcome || outcome(one, state.round.code) === this.#outcome;
    const shown = state.assignments.filter(fits);
    const keyed = shown.map((one) => [column.by(one, state, time), one]);
    keyed.sort(([a, one], [b, other]) => {
      if (a === null || b === null) return (a === null) - (b === null) || one.id - other.id;
      const order = a < b ? -1 : a > b ? 1 : 0;
      return (down ? -order : order) || one.id - other.id;
    });
    return keyed.map(([, one]) => one);
  }

  #drawFilters(state) {
    const counts = outcomes(state);
    const { length } = state.assignments;
    const found = RANK.filter((one) => counts[one] || one === this.#outcome);
    const chips = [null, ...found].map((one) => {
      const key = one ?? "all";
      const old = [...this.filters.children].find((chip) => chip.dataset.show === key);
      const chip = old ?? this.#chip(one, key);
      set(chip, { "aria-pressed": String(this.#outcome === one) });
      say(chip.lastChild, count(one ? (counts[one] ?? 0) : length));
      return chip;
    });
    place(this.filters, length ? chips : []);
  }

  #chip(one, key) {
    const chip = h("button", { type: "button", class: "fs-filter", "data-show": key, "data-state": one }, h("span", {}, named(key)), h("span", { class: "fs-filter-count" }));
    chip.addEventListener("click", () => {
      this.#outcome = this.#outcome === one ? null : one;
      this.draw();
    });
    return chip;
  }
}

function nobody({ round }) {
  if (round.phase === "selecting") return "Nobody is invited yet: the round waits for participants to check in.";
  return "Nobody was invited to this round.";
}

class Row {
  open = false;
  #shown = {};

  constructor(id, model, redraw) {
    this.id = id;
    this.model = model;
    this.link = h("a", {});
    this.chip = h("span", { class: "state" });
    this.why = h("button", { type: "button", class: "fs-why", "aria-expanded": "false", "aria-controls": `fs-detail-${id}` }, "why");
    this.why.addEventListener("click", () => this.#toggle(redraw));
    this.activity = h("span", { class: "fs-activity-words" });
    this.fill = h("span", { class: "fs-activity-fill" });
    this.bar = h("span", { class: "fs-activity-bar", "aria-hidden": "true" }, this.fill);
    this.normText = h("span", {});
    this.normFill = h("span", { class: "fs-norm-fill" });
    this.normBar = h("span", { class: "fs-norm-bar", "aria-hidden": "true" }, this.normFill);
    this.cells = {};
    const cell = (column, tag, ...children) => {
      const role = tag === "th" ? "rowheader" : "cell";
      const made = h(tag, { role, class: `fs-col-${column}`, scope: tag === "th" ? "row" : null, "data-label": COLUMNS.find((one) => one.id === column).label }, ...children);
      this.cells[column] = made;
      return made;
    };
    this.element = h(
      "tr",
      { role: "row", "data-assignment": id },
      cell("name", "th", this.link),
      cell("state", "td", this.chip, this.why),
      cell("activity", "td", this.bar, this.activity),
      cell("loss", "td"),
      cell("samples", "td"),
      cell("norm", "td", this.normText, this.normBar),
      cell("seen", "td"),
      cell("end", "td"),
    );
    this.detailCell = h("td", { role: "cell", colspan: COLUMNS.length });
    this.detail = h("tr", { role: "row", class: "fs-detail", id: `fs-detail-${id}` }, this.detailCell);
  }

  #toggle(redraw) {
    this.open = !this.open;
    if (this.open) {
      this.model.set("asked", this.id);
      this.model.save_changes?.();
    }
    redraw();
  }

  draw(one, state, time, detail) {
    const { one: before, norms, code, open } = this.#shown;
    const same = before === one && norms === state.norms && code === state.round.code;
    if (same && open === this.open && !open) return;
    this.#shown = { ...this.#shown, one, norms: state.norms, code: state.round.code, open: this.open };
    this.#drawOnce(one, state);
    set(this.why, { "aria-expanded": String(this.open), hidden: !isIll(one) });
    if (this.open) this.#drawDetail(one, detail);
    this.tick(one, state, time);
  }

  #drawOnce(one, state) {
    const { participant } = one;
    const pattern = this.model.get("links")?.participant;
    say(this.link, participant.name);
    set(this.link, { href: pattern ? pattern.replace("{uuid}", participant.uuid) : null });
    const found = outcome(one, state.round.code);
    say(this.chip, named(found));
    set(this.chip, { "data-state": found });
    set(this.element, { "data-state": found });
    set(this.why, { "aria-label": `Why ${participant.name} is ${named(found)}` });
    this.#drawActivity(one, state.round);
    say(this.cells.loss, metric(lossOf(one)));
    say(this.cells.samples, one.update ? count(one.update.samples) : "");
    this.#drawNorm(one, state.norms);
  }

  #drawActivity(one, round) {
    const done = one.update !== null;
    const current = done || isOpen(one) || one.activity;
    const words = done ? "uploaded" : isOpen(one) ? goingOn(one) : one.activity ? `was ${goingOn(one)}` : "";
    const all = [words, age(one, round)].filter(Boolean).join(", ");
    say(this.activity, all);
    set(this.activity, { title: all === words ? null : `${words}: it trains from version ${one.base}` });
    set(this.bar, { "data-activity": done ? "done" : one.activity || "none", hidden: !current, "data-stopped": !done && !isOpen(one) });
    this.fill.style.inlineSize = `${100 * (done ? 1 : one.fraction)}%`;
  }

  #drawNorm(one, { median, limit }) {
    const norm = one.update?.norm ?? null;
    say(this.normText, norm === null ? "" : metric(norm));
    set(this.normBar, { hidden: norm === null || !median, "data-over": limit !== null && norm > limit });
    const whole = limit ?? 2 * (median ?? 1);
    this.normFill.style.inlineSize = `${100 * Math.min(1, (norm ?? 0) / whole)}%`;
    const about = limit === null ? "" : `the limit is ${metric(limit)}, the median ${metric(median)}`;
    set(this.cells.norm, { title: norm === null || !about ? null : about });
  }

  tick(one, state, time) {
    const seen = one.last_seen_at ? ago((time - Date.parse(one.last_seen_at)) / 1000) : "not yet";
    say(this.cells.seen, isOpen(one) || one.last_seen_at ? seen : "never");
    say(this.cells.end, ending(one, state, time));
  }

  #drawDetail(one, detail) {
    const told = JSON.stringify([one.reason, one.code, one.refusals, detail ?? null]);
    if (this.#shown.detail === told) return;
    this.#shown.detail = told;
    const parts = [h("p", { class: "fs-detail-reason" }, one.reason || "No reason was given.")];
    const facts = [one.code && `code ${one.code}`, one.refusals && `${one.refusals} refused ${one.refusals === 1 ? "upload" : "uploads"}`];
    const line = facts.filter(Boolean).join(" · ");
    if (line) parts.push(h("p", { class: "fs-detail-facts" }, line));
    if (!detail) parts.push(h("p", { class: "fs-detail-facts" }, "Asking for the participant's own report…"));
    else if (detail.error) parts.push(h("p", { class: "fs-detail-facts" }, detail.error));
    else if (detail.detail) parts.push(h("pre", { tabindex: "0", role: "group", "aria-label": `What ${one.participant.name} reported` }, detail.detail));
    else parts.push(h("p", { class: "fs-detail-facts" }, "The participant reported nothing more."));
    this.detailCell.replaceChildren(...parts);
  }
}

// Of one that did not begin where its round did: how many versions it was behind, or where it began.
function age({ staleness, base }, round) {
  if (staleness) return `${count(staleness)} behind`;
  return base === undefined || base === round.base.number ? "" : `from v${base}`;
}

function goingOn({ state, activity, fraction, epoch, epochs }) {
  if (!activity) return state === "invited" ? "has not begun" : "";
  const so = fraction > 0 ? ` ${share(fraction)}` : "";
  if (activity === "training" && epochs) return `training ${epoch ?? 0}/${epochs},${so || " 0 %"}`;
  return `${activity}${so}`;
}

function ending(one, state, time) {
  if (one.uploaded_at) return timeOfDay(one.uploaded_at, time);
  if (!isOpen(one)) return "";
  const end = assignmentEnd(one, state, time);
  return end === null ? "" : end - time < 1500 ? "any moment" : `in ${roughly((end - time) / 1000)}`;
}

const roughly = (seconds) =>
  seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;

export default { render };
