// A round as it is: its state, the events that are folded into it, and the drawings of both.
//
//   const cockpit = new Cockpit({
//     state,                        // the document of a round (round_state.js)
//     parts: { phases, … },         // an element for each drawing; and `notices` and `said`
//     links: { participant, … },    // patterns of addresses, with {uuid}, {id} or {number}
//     advice: { code: sentence },   // what to do after a failure
//     offset,                       // the server's time less ours, at least
//     onAsk(id) {},                 // somebody wants an assignment's report: `answer(id, …)`
//     onDraw(state, before) {},     // it was drawn; before is null the first time
//   });
//   cockpit.take(events);           // what happened since
//   cockpit.catchUp(document);      // read anew
//
// Where the events come from is the host's business: a page has its socket, a notebook its kernel.
import assignments from "./assignments.js";
import { h, place, say } from "./dom.js";
import evaluation from "./evaluation.js";
import feed from "./feed.js";
import { standing } from "./forecast.js";
import making from "./making.js";
import { Model } from "./model.js";
import { inWords, named } from "./numbers.js";
import phases from "./phases.js";
import { catchUp, fold } from "./round_state.js";
import { now, onTick } from "./ticks.js";
import timeline from "./timeline.js";

const DRAWINGS = { phases, assignments, evaluation, making, timeline, feed };
export const ENDED = ["published", "failed", "cancelled"];
export const RUN_ENDED = ["completed", "stopped", "failed"];

const article = (phase) => ({ failed: "has failed", cancelled: "was cancelled", published: "is published" })[phase] ?? `is ${phase} now`;

/** Whether nothing more can happen that is shown of a round. */
export function isOver({ round, run }) {
  return ENDED.includes(round.phase) && (run.next !== null || RUN_ENDED.includes(run.state));
}

export class Cockpit {
  #state;
  #model = new Model();
  #parts;
  #links;
  #advice;
  #onDraw;
  #stops = [];
  #drawing = false;
  #offered = null; // the round that has opened while somebody watched this one
  #closed = false;

  constructor({ state, parts, links = {}, advice = {}, offset = 0, onAsk = () => {}, onDraw = () => {} }) {
    this.#state = state;
    this.#parts = parts;
    this.#links = links;
    this.#advice = advice;
    this.#onDraw = onDraw;
    this.#model.set("links", links);
    this.#model.set("details", {});
    this.#model.set("offset", offset);
    this.#model.set("data", state);
    this.#model.on("change:asked", () => onAsk(this.#model.get("asked")));
    for (const [name, { render }] of Object.entries(DRAWINGS)) {
      this.#stops.push(render({ model: this.#model, el: parts[name] }));
    }
    this.#frame(null);
    this.#stops.push(onTick(() => this.#count()));
  }

  /** The document as it is now. */
  get state() {
    return this.#state;
  }

  /** What happened since, in order; what is known already changes nothing. */
  take(events) {
    for (const { at } of events) this.observe(Date.parse(at) - Date.now());
    this.#become(fold(this.#state, events));
  }

  /** The document, read once more. */
  catchUp(document) {
    this.#become(catchUp(this.#state, document));
  }

  /** The report of an assignment: { detail } or { error }. */
  answer(id, report) {
    this.#model.set("details", { ...this.#model.get("details"), [id]: report });
  }

  // The server cannot have said something before it happened: our clock is behind by that at least.
  observe(offset) {
    if (offset > this.#model.get("offset")) this.#model.set("offset", offset);
  }

  close() {
    this.#closed = true;
    for (const stop of this.#stops.splice(0)) stop();
  }

  #become(state) {
    if (state === this.#state) return;
    this.#state = state;
    if (this.#drawing) return;
    this.#drawing = true; // once a frame, however much comes; less often where that is much to draw
    const pause = Math.min(1000, state.assignments.length / 2) - 50;
    setTimeout(() => requestAnimationFrame(() => this.#draw()), Math.max(0, pause));
  }

  #draw() {
    this.#drawing = false;
    if (this.#closed) return;
    const before = this.#model.get("data");
    this.#model.set("data", this.#state);
    this.#frame(before);
  }

  #frame(before) {
    this.#notices(before);
    this.#announce(before);
    this.#onDraw(this.#state, before);
  }

  #announce(before) {
    if (!before) return;
    const { round } = this.#state;
    const enough = (state) => standing(state).updates >= state.round.quorum;
    const words = [];
    if (before.round.phase !== round.phase) words.push(`Round ${round.number} ${article(round.phase)}.`);
    else if (round.phase === "training" && !enough(before) && enough(this.#state)) words.push("The quorum is reached.");
    if (!before.run.next && this.#state.run.next) words.push(`Round ${this.#state.run.next.number} has opened.`);
    if (words.length) say(this.#parts.said, words.join(" "));
  }

  #notices(before) {
    const { round, run } = this.#state;
    if (before && before.round === round && before.run === run) return;
    const found = [];
    if (round.phase === "published") found.push(this.#published());
    if (round.phase === "failed") found.push(this.#failed());
    if (round.phase === "cancelled") found.push(notice("warning", "The round was cancelled.", [round.reason]));
    if (before && !before.run.next && run.next) this.#offered = run.next;
    if (this.#offered) {
      const { id, number } = this.#offered;
      const href = this.#links.round.replace("{id}", id);
      found.push(notice("info", `Round ${number} has opened.`, [], h("a", { class: "button", "data-size": "small", href }, `Watch round ${number}`)));
    }
    place(this.#parts.notices, found);
    this.#count();
  }

  #published() {
    const { version, base } = this.#state.round;
    const href = this.#links.version.replace("{number}", version.number);
    const link = h("a", { class: "button", "data-size": "small", href }, `Version ${version.number}`);
    return notice("success", `Version ${version.number} is published.`, [compared(version.metrics, base)], link);
  }

  #failed() {
    const { round, run } = this.#state;
    const lines = [round.reason];
    if (Object.keys(round.version?.metrics ?? {}).length) lines.push(`Measured: ${compared(round.version.metrics, round.base)}`);
    lines.push(this.#advice[round.code] ?? "");
    const made = notice("error", "The round failed.", lines);
    if (run.next) return made;
    if (RUN_ENDED.includes(run.state)) {
      made.append(h("p", {}, `The run is ${run.state}. `, h("a", { href: this.#links.run }, "To the run")));
    } else if (run.next_round_at) {
      made.append(h("p", { "data-until": run.next_round_at }));
    }
    return made;
  }

  #count() {
    for (const line of this.#parts.notices.querySelectorAll("[data-until]")) {
      const seconds = (Date.parse(line.dataset.until) - now(this.#model)) / 1000;
      const when = seconds > 0 ? `in ${inWords(seconds)}` : "any moment now";
      say(line, `The run tries again ${when} (failure ${this.#state.run.failures}, of which it bears ${this.#state.run.retries} in a row).`);
    }
  }
}

function notice(kind, title, lines, ...more) {
  const texts = lines.filter(Boolean).map((line) => h("p", {}, line));
  const buttons = more.length ? h("div", { class: "buttons" }, ...more) : null;
  return h("div", { class: "notice round-notice", "data-kind": kind }, h("p", {}, h("strong", {}, title)), ...texts, buttons);
}

function compared(metrics, base) {
  return Object.entries(metrics)
    .filter(([, value]) => typeof value === "number")
    .map(([name, value]) => {
      const before = base.metrics[name];
      return `${name.replaceAll("_", " ")} ${named(name, value)}${typeof before === "number" ? ` (version ${base.number}: ${named(name, before)})` : ""}`;
    })
    .join(", ");
}
