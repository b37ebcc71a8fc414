// A round in time: a lane for each participant with its download, training and upload, the server's own
// lanes below, the deadline, and the line of now.
//
// `data` is the state of a round, `offset` the server's time less ours.
import { h, place, say, set, svg } from "./dom.js";
import { clockface, duration, plural, timeOfDay } from "./numbers.js";
import { now, onTick } from "./ticks.js";
import { VOID, named, outcome, outcomes } from "./verdicts.js";

const ENDED = { [VOID]: "quiet", accepted: "good", uploaded: "good", quarantined: "warn", late: "warn", lost: "warn", withdrawn: "warn", rejected: "bad", failed: "bad" };
const ACTIVITIES = ["downloading", "training", "uploading"];
const SPANS = [1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
const TOP = 22; // of the axis
const MARK = 4.5; // half an end marker

function render({ model, el }) {
  const view = new Timeline(model);
  el.append(view.element);
  const draw = () => view.draw();
  const resized = new ResizeObserver(draw);
  resized.observe(view.element);
  model.on("change:data", draw);
  const stop = onTick(draw);
  draw();
  return () => {
    model.off("change:data", draw);
    stop();
    resized.disconnect();
    view.element.remove();
  };
}

class Timeline {
  #model;
  #lanes = new Map();
  #order = []; // places in the list of assignments, from the top lane to the last
  #scale = null;

  constructor(model) {
    this.#model = model;
    this.grid = svg("g", { class: "fs-grid" });
    this.people = svg("g", {});
    this.server = svg("g", {});
    this.deadline = svg("g", { class: "fs-deadline" }, svg("line", {}), svg("text", {}));
    this.nowLine = svg("line", { class: "fs-now" });
    this.title = svg("title", {});
    this.svg = svg("svg", { class: "fs-timeline-svg", role: "img" }, this.title, this.grid, this.people, this.server, this.deadline, this.nowLine);
    this.scroller = h("div", { class: "fs-timeline-scroll", tabindex: "0", role: "group", "aria-label": "Timeline" }, this.svg);
    this.element = h("div", { class: "fs-timeline" }, legend(), this.scroller);
    this.serverLanes = [["selecting", "selection"], ["aggregating", "aggregation"], ["evaluating", "evaluation"]].map(
      ([phase, word]) => new ServerLane(phase, word),
    );
    this.server.append(...this.serverLanes.map((lane) => lane.element));
  }

  draw() {
    const state = this.#model.get("data");
    const width = this.scroller.clientWidth;
    if (!state || !width) return;
    const time = now(this.#model);
    const { assignments } = state;
    const scale = scaleOf(state, time, width);
    const moved = !this.#scale || JSON.stringify(scale.key) !== JSON.stringify(this.#scale.key);
    this.#scale = scale;
    if (moved) this.#frame(scale);
    if (this.#order.length !== assignments.length) this.#arrange(assignments);
    this.#order.forEach((place, at) => this.#lane(assignments[place].id).draw(assignments[place], state.round.code, at, scale, time, moved));
    this.serverLanes.forEach((lane, at) => lane.draw(state, at, scale, time));
    this.#lines(state, scale, time);
    const summary = describe(state, time);
    if (this.title.textContent !== summary) {
      say(this.title, summary);
      set(this.svg, { "aria-label": summary });
    }
  }

  // By name, as the table is at first; nobody leaves a round, and who comes stands at the list's end.
  #arrange(assignments) {
    const names = assignments.map((one) => one.participant.name.toLowerCase());
    this.#order = [...names.keys()].sort((a, b) => (names[a] < names[b] ? -1 : names[a] > names[b] ? 1 : a - b));
    place(this.people, this.#order.map((at) => this.#lane(assignments[at].id).element));
  }

  #lane(id) {
    if (!this.#lanes.has(id)) this.#lanes.set(id, new Lane());
    return this.#lanes.get(id);
  }

  #frame(scale) {
    set(this.svg, { width: scale.width, height: scale.height, viewBox: `0 0 ${scale.width} ${scale.height}` });
    const lines = [];
    for (let second = 0; second <= scale.seconds + 1e-6; second += scale.tick) {
      const x = scale.x(scale.start + second * 1000);
      if (x > scale.width) break;
      lines.push(svg("line", { x1: x, x2: x, y1: TOP, y2: scale.height }));
      const last = x > scale.width - 24;
      lines.push(svg("text", { x, y: TOP - 8, "text-anchor": second === 0 ? "start" : last ? "end" : "middle" }, label(second)));
    }
    const rule = scale.serverTop - 5;
    lines.push(svg("line", { class: "fs-rule", x1: 0, x2: scale.width, y1: rule, y2: rule }));
    this.grid.replaceChildren(...lines);
  }

  #lines({ round }, scale, time) {
    const [line, text] = this.deadline.children;
    const at = round.deadline && Date.parse(round.deadline);
    const inside = at && at <= scale.start + scale.seconds * 1000;
    set(this.deadline, { display: at && inside ? null : "none" });
    if (at && inside) {
      const x = scale.x(at);
      set(line, { x1: x, x2: x, y1: TOP, y2: scale.height });
      set(text, { x: x - 4, y: scale.height - 4, "text-anchor": "end" });
      say(text, "deadline");
    }
    const x = scale.x(time);
    set(this.nowLine, { x1: x, x2: x, y1: TOP, y2: scale.height, display: round.ended_at ? "none" : null });
  }
}

/** How time and lanes are laid out; `key` is what must be the same for nothing to move. */
function scaleOf({ round, assignments }, time, width) {
  const start = Date.parse(round.opened_at);
  const end = round.ended_at ? Date.parse(round.ended_at) : time;
  const elapsed = Math.max(1, (end - start) / 1000);
  const deadline = round.deadline ? (Date.parse(round.deadline) - start) / 1000 : 0;
  // The deadline is in the picture where the rest of it would not shrink to nothing.
  const wished = round.ended_at ? elapsed * 1.02 : Math.max(elapsed * 1.15, deadline && deadline < elapsed * 3 ? deadline * 1.03 : 0);
  const tick = SPANS.find((span) => wished / span <= (width < 500 ? 4 : 9)) ?? 86400;
  const seconds = round.ended_at ? wished : Math.ceil(wished / tick) * tick;
  const lane = assignments.length <= 12 ? 26 : assignments.length <= 40 ? 18 : assignments.length <= 120 ? 6 : 3;
  const labelled = lane >= 18;
  const left = labelled ? Math.min(150, Math.max(86, width * 0.16)) : 86;
  const serverTop = TOP + assignments.length * lane + 14;
  const height = serverTop + 3 * 20 + 6;
  const span = width - left - 10;
  return {
    start, seconds, tick, lane, labelled, left, width, height, serverTop,
    x: (moment) => left + (span * Math.max(0, (moment - start) / 1000)) / seconds,
    key: [start, seconds, tick, lane, left, width, height],
  };
}

const label = (second) => (second === 0 ? "0" : second < 60 ? `${second} s` : clockface(second));

class Lane {
  #one = null;
  #code = "";
  #at = -1;

  constructor() {
    this.title = svg("title", {});
    this.label = svg("text", { class: "fs-lane-label" });
    this.hit = svg("rect", { class: "fs-lane-hit" });
    this.wait = svg("line", { class: "fs-wait" });
    this.parts = Object.fromEntries(ACTIVITIES.map((name) => [name, svg("rect", { class: "fs-part", "data-activity": name, rx: 2 })]));
    this.mark = svg("path", { class: "fs-mark" });
    this.element = svg("g", { class: "fs-lane" }, this.title, this.hit, this.label, this.wait, ...Object.values(this.parts), this.mark);
  }

  draw(one, code, at, scale, time, moved) {
    const open = one.state === "invited" || one.state === "training";
    const whole = moved || this.#one !== one || this.#code !== code || this.#at !== at;
    if (!whole && !open) return;
    this.#one = one;
    this.#code = code;
    this.#at = at;
    const top = TOP + at * scale.lane;
    const found = outcome(one, code);
    if (whole) this.#frame(one, found, top, scale);
    this.#segments(one, top, scale, time, open);
    if (whole) say(this.title, tale(one, found));
  }

  #frame(one, found, top, scale) {
    const middle = top + scale.lane / 2;
    set(this.hit, { x: 0, y: top, width: scale.width, height: scale.lane });
    set(this.label, { x: 0, y: middle, display: scale.labelled ? null : "none" });
    say(this.label, shorten(one.participant.name, scale.left));
    const ended = ENDED[found];
    set(this.mark, { display: ended ? null : "none" });
    if (!ended) return;
    const x = scale.x(Date.parse(one.uploaded_at ?? one.ended_at));
    const half = Math.min(MARK, scale.lane / 2 - 0.5);
    set(this.mark, { d: shape(found, x, middle, half), "data-tone": ended, "data-state": found });
  }

  #segments(one, top, scale, time, open) {
    const spans = spansOf(one, open ? time : null);
    const inner = Math.max(2, scale.lane * 0.56);
    const middle = top + scale.lane / 2;
    const begun = spans.find(Boolean)?.[0];
    const until = begun ?? (open ? time : Date.parse(one.ended_at ?? one.invited_at));
    set(this.wait, { x1: scale.x(Date.parse(one.invited_at)), x2: scale.x(until), y1: middle, y2: middle });
    ACTIVITIES.forEach((name, at) => {
      const span = spans[at];
      const part = this.parts[name];
      if (!span) set(part, { display: "none" });
      else {
        const x = scale.x(span[0]);
        const width = Math.max(1.5, scale.x(span[1]) - x);
        set(part, { display: null, x: x.toFixed(1), y: middle - inner / 2, width: width.toFixed(1), height: inner });
      }
    });
  }
}

/** When each activity began and ended, in milliseconds; null for one that is not known of. */
function spansOf(one, time) {
  const began = ACTIVITIES.map((name) => one.activities[name] ?? (name === "training" ? one.training_at : null)).map((moment) => moment && Date.parse(moment));
  const end = time ?? Date.parse(one.uploaded_at ?? one.ended_at ?? one.last_seen_at ?? one.invited_at);
  // A report of training is of training, whatever the state was called when the first report came.
  if (began[0] && !one.activities.training && one.activity === "downloading") began[1] = null;
  return began.map((start, at) => {
    if (!start) return null;
    const following = began.slice(at + 1).find((moment) => moment && moment >= start) ?? end;
    return [start, Math.max(start, following)];
  });
}

function tale(one, found) {
  const [download, training, upload] = spansOf(one, null).map((span) => span && (span[1] - span[0]) / 1000);
  const parts = [`${one.participant.name}: ${named(found)}`];
  const open = one.state === "invited" || one.state === "training";
  if (open) return one.activity ? `${parts[0]}, ${one.activity}` : parts[0];
  if (download !== null) parts.push(`download ${duration(download)}`);
  if (training !== null) parts.push(`training ${duration(training)}`);
  if (upload !== null) parts.push(`upload ${duration(upload)}`);
  return parts.join(", ") + (one.reason ? `. ${one.reason}` : "");
}

// Each outcome has a shape of its own, beside its colour.
function shape(state, x, y, r) {
  if (state === "accepted" || state === "uploaded") return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
  if (state === "failed" || state === "rejected") return `M${x - r} ${y - r}L${x + r} ${y + r}M${x + r} ${y - r}L${x - r} ${y + r}`;
  if (state === "quarantined") return `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}Z`;
  if (state === VOID) return `M${x - r + 0.5} ${y - r + 0.5}h${2 * r - 1}v${2 * r - 1}h${1 - 2 * r}Z`;
  if (state === "late") return `M${x} ${y - r}L${x} ${y + r}M${x - r} ${y - r}L${x - r} ${y + r}`;
  return `M${x - r} ${y}L${x + r} ${y}`; // lost, withdrawn
}

class ServerLane {
  constructor(phase, word) {
    this.phase = phase;
    this.title = svg("title", {});
    this.part = svg("rect", { class: "fs-part", "data-phase": phase, rx: 2 });
    this.label = svg("text", { class: "fs-lane-label" }, word);
    this.word = word;
    this.element = svg("g", { class: "fs-lane" }, this.title, this.label, this.part);
  }

  draw({ round }, at, scale, time) {
    const top = scale.serverTop + at * 20;
    const began = this.phase === "selecting" ? round.opened_at : round[`${this.phase}_at`];
    set(this.label, { x: 0, y: top + 10 });
    set(this.part, { display: began ? null : "none" });
    if (!began) return;
    const order = ["opened_at", "training_at", "aggregating_at", "evaluating_at", "ended_at"];
    const mine = this.phase === "selecting" ? 0 : order.indexOf(`${this.phase}_at`);
    const following = order.slice(mine + 1).map((name) => round[name]).find((moment) => moment);
    const [start, end] = [Date.parse(began), following ? Date.parse(following) : time];
    const x = scale.x(start);
    set(this.part, { x: x.toFixed(1), y: top + 4, width: Math.max(3, scale.x(end) - x).toFixed(1), height: 12 });
    say(this.title, `${this.word}: ${duration((end - start) / 1000)}`);
  }
}

function shorten(name, room) {
  const most = Math.floor(room / 7.2) - 1;
  return name.length > most ? `${name.slice(0, most - 1)}…` : name;
}

function describe(state, time) {
  const { round, assignments } = state;
  const end = round.ended_at ? Date.parse(round.ended_at) : time;
  const many = `${assignments.length} ${plural(assignments.length, "participant", "participants")}`;
  const states = Object.entries(outcomes(state)).map(([one, number]) => `${number} ${named(one)}`);
  const since = round.ended_at ? `took ${duration((end - Date.parse(round.opened_at)) / 1000)}` : `opened at ${timeOfDay(round.opened_at, time)}`;
  return `Timeline of round ${round.number}, which ${since}, with ${many}${states.length ? `: ${states.join(", ")}` : ""}.`;
}

function legend() {
  const item = (kind, word) => h("li", {}, h("span", { class: "fs-key", "data-key": kind, "aria-hidden": "true" }), word);
  return h(
    "ul",
    { class: "fs-legend" },
    item("wait", "invited"),
    ...[["downloading", "download"], ["training", "training"], ["uploading", "upload"]].map(([kind, word]) => item(kind, word)),
    item("good", "uploaded"), item("warn", "quarantined, late, lost"), item("bad", "failed, rejected"), item("quiet", "not used"),
  );
}

export default { render };
