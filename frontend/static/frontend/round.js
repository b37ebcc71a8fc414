// The round's cockpit: the document of a round, the events that follow it, and the drawings of both.
//
// Nothing is asked for again while the connection holds: each event is folded into the document. What
// passing news told while it did not hold is caught up by reading the document once more.
import assignments from "../drawings/assignments.js";
import { h, place, say, set } from "../drawings/dom.js";
import feed from "../drawings/feed.js";
import { standing } from "../drawings/forecast.js";
import { Model } from "../drawings/model.js";
import { inWords, named } from "../drawings/numbers.js";
import phases from "../drawings/phases.js";
import { catchUp, fold } from "../drawings/round_state.js";
import { now, onTick } from "../drawings/ticks.js";
import timeline from "../drawings/timeline.js";
import { connect } from "./live.js";

const DRAWINGS = { phases, assignments, timeline, feed };
const POLL = 4000; // milliseconds between documents where only events come through
const OPEN = ["selecting", "training"];
const ENDED = ["published", "failed", "cancelled"];
const RUN_ENDED = ["completed", "stopped", "failed"];

const parsed = (id) => JSON.parse(document.getElementById(id).textContent);
const article = (phase) => ({ failed: "has failed", cancelled: "was cancelled", published: "is published" })[phase] ?? `is ${phase} now`;

class Cockpit extends HTMLElement {
  #state;
  #model = new Model();
  #setting;
  #listener;
  #stops = [];
  #status = "";
  #drawing = false;
  #poll;

  /** The document as it is now. */
  get state() {
    return this.#state;
  }

  connectedCallback() {
    this.#state = parsed("round-state");
    this.#setting = parsed("round-setting");
    this.#model.set("links", this.#setting.links);
    this.#model.set("details", {});
    this.#model.set("offset", firstOffset(this.#state.now));
    this.#model.set("data", this.#state);
    this.#model.on("change:asked", () => this.#ask(this.#model.get("asked")));
    for (const [name, { render }] of Object.entries(DRAWINGS)) {
      this.#stops.push(render({ model: this.#model, el: this.#part(name) }));
    }
    this.#frame(null);
    this.#stops.push(onTick(() => this.#count()));
    this.#follow();
  }

  disconnectedCallback() {
    clearInterval(this.#poll);
    this.#listener?.close();
    for (const stop of this.#stops.splice(0)) stop();
  }

  #part(name) {
    return this.querySelector(`[data-part="${name}"]`);
  }

  // --- What comes ---

  #follow() {
    if (isOver(this.#state)) return;
    this.#listener = connect({
      after: this.#state.cursor,
      subjects: { run: this.#state.run.id },
      onEvents: (events) => this.#take(events),
      onStatus: (status) => this.#connection(status),
    });
  }

  #take(events) {
    for (const { at } of events) this.#observe(at);
    this.#become(fold(this.#state, events));
  }

  #become(state) {
    if (state === this.#state) return;
    this.#state = state;
    if (this.#drawing) return;
    this.#drawing = true; // once a frame, however much comes; less often where that is much to draw
    const pause = Math.min(1000, state.assignments.length / 2) - 50;
    setTimeout(() => requestAnimationFrame(() => this.#draw()), Math.max(0, pause));
  }

  // The server cannot have said something before it happened: our clock is behind by that at least.
  #observe(at) {
    const offset = Date.parse(at) - Date.now();
    if (offset > this.#model.get("offset")) this.#model.set("offset", offset);
  }

  #connection(status) {
    const [before, cut] = [this.#status, ["connecting", "polling", "offline"]];
    this.#status = status;
    clearInterval(this.#poll);
    if (status === "live" && cut.includes(before) && this.wasLive) this.#readAgain();
    if (status === "live") this.wasLive = true;
    if (status === "polling") this.#poll = setInterval(() => this.#read(), POLL);
  }

  // All watchers of a server that returns would ask at once.
  #readAgain() {
    setTimeout(() => this.#read(), Math.random() * 800);
  }

  async #read() {
    try {
      const answer = await fetch(this.#setting.links.state, { headers: { Accept: "application/json" } });
      if (answer.ok) this.#become(catchUp(this.#state, await answer.json()));
    } catch {
      // The connection's own state tells of it.
    }
  }

  async #ask(id) {
    const tell = (detail) => this.#model.set("details", { ...this.#model.get("details"), [id]: detail });
    try {
      const answer = await fetch(this.#setting.links.assignment.replace("{id}", id), { headers: { Accept: "application/json" } });
      const body = await answer.json();
      tell(answer.ok ? { detail: body.detail } : { error: body.detail ?? "The report cannot be read now." });
    } catch {
      tell({ error: "The server does not answer; close and open this to ask again." });
    }
  }

  // --- What is shown ---

  #draw() {
    this.#drawing = false;
    const before = this.#model.get("data");
    this.#model.set("data", this.#state);
    this.#frame(before);
    if (this.#listener && isOver(this.#state)) {
      this.#listener.close();
      this.#listener = null;
      clearInterval(this.#poll);
    }
  }

  #frame(before) {
    const { round, run } = this.#state;
    const chip = document.getElementById("round-phase");
    set(chip, { "data-state": round.phase });
    say(chip, round.phase);
    document.title = `Round ${round.number} ${round.phase} · fedserver`;
    const next = document.getElementById("round-next");
    if (run.next) {
      set(next, { href: this.#link("round", "{id}", run.next.id), hidden: null });
      say(next, `Round ${run.next.number} →`);
    }
    this.#decisions();
    this.#notices(before);
    this.#announce(before);
  }

  #link(name, placeholder, value) {
    return this.#setting.links[name].replace(placeholder, value);
  }

  #decisions() {
    const { round } = this.#state;
    const { updates } = standing(this.#state);
    const possible = { close: OPEN.includes(round.phase) && updates >= round.quorum, cancel: !ENDED.includes(round.phase) };
    for (const button of document.querySelectorAll("#round-decisions [data-verb]")) {
      set(button, { hidden: !possible[button.dataset.verb] });
    }
  }

  #announce(before) {
    if (!before) return;
    const { round } = this.#state;
    const enough = (state) => standing(state).updates >= state.round.quorum;
    const words = [];
    if (before.round.phase !== round.phase) words.push(`Round ${round.number} ${article(round.phase)}.`);
    else if (round.phase === "training" && !enough(before) && enough(this.#state)) words.push("The quorum is reached.");
    if (!before.run.next && this.#state.run.next) words.push(`Round ${this.#state.run.next.number} has opened.`);
    if (words.length) say(this.#part("said"), words.join(" "));
  }

  #notices(before) {
    const { round, run } = this.#state;
    if (before && before.round === round && before.run === run) return;
    const found = [];
    if (round.phase === "published") found.push(this.#published());
    if (round.phase === "failed") found.push(this.#failed());
    if (round.phase === "cancelled") found.push(notice("warning", "The round was cancelled.", [round.reason]));
    if (before && !before.run.next && run.next) this.offered = run.next;
    if (this.offered) {
      const href = this.#link("round", "{id}", this.offered.id);
      found.push(notice("info", `Round ${this.offered.number} has opened.`, [], h("a", { class: "button", "data-size": "small", href }, `Watch round ${this.offered.number}`)));
    }
    place(this.#part("notices"), found);
    this.#count();
  }

  #published() {
    const { round } = this.#state;
    const { version, base } = round;
    const href = this.#link("version", "{number}", version.number);
    const link = h("a", { class: "button", "data-size": "small", href }, `Version ${version.number}`);
    return notice("success", `Version ${version.number} is published.`, [compared(version.metrics, base)], link);
  }

  #failed() {
    const { round, run } = this.#state;
    const lines = [round.reason];
    if (Object.keys(round.version?.metrics ?? {}).length) lines.push(`Measured: ${compared(round.version.metrics, round.base)}`);
    lines.push(this.#setting.advice[round.code] ?? "");
    const made = notice("error", "The round failed.", lines);
    if (run.next) return made;
    if (RUN_ENDED.includes(run.state)) {
      made.append(h("p", {}, `The run is ${run.state}. `, h("a", { href: this.#setting.links.run }, "To the run")));
    } else if (run.next_round_at) {
      made.append(h("p", { "data-until": run.next_round_at }));
    }
    return made;
  }

  #count() {
    for (const line of this.querySelectorAll("[data-until]")) {
      const seconds = (Date.parse(line.dataset.until) - now(this.#model)) / 1000;
      const when = seconds > 0 ? `in ${inWords(seconds)}` : "any moment now";
      say(line, `The run tries again ${when} (failure ${this.#state.run.failures}, of which it bears ${this.#state.run.retries} in a row).`);
    }
  }
}

/** Whether nothing more can happen that this page shows. */
function isOver({ round, run }) {
  return ENDED.includes(round.phase) && (run.next !== null || RUN_ENDED.includes(run.state));
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
      return `${name} ${named(name, value)}${typeof before === "number" ? ` (version ${base.number}: ${named(name, before)})` : ""}`;
    })
    .join(", ");
}

/** The server's time less ours, at least: the document was read before its first byte came. */
function firstOffset(served) {
  const [navigation] = performance.getEntriesByType("navigation");
  const came = performance.timeOrigin + (navigation?.responseStart ?? 0);
  return Date.parse(served) - came;
}

customElements.define("fs-round", Cockpit);
