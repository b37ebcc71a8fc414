// The round's cockpit: the document of a round, the events that follow it, and the drawings of both.
//
// Nothing is asked for again while the connection holds: each event is folded into the document. What
// passing news told while it did not hold is caught up by reading the document once more.
import { Cockpit, ENDED, isOver } from "../drawings/cockpit.js";
import { say, set } from "../drawings/dom.js";
import { standing } from "../drawings/forecast.js";
import { connect } from "./live.js";

const PARTS = ["phases", "assignments", "evaluation", "making", "timeline", "feed", "notices", "said"];
const POLL = 4000; // milliseconds between documents where only events come through
const OPEN = ["selecting", "training"];

const parsed = (id) => JSON.parse(document.getElementById(id).textContent);

class RoundPage extends HTMLElement {
  #cockpit;
  #links;
  #listener;
  #status = "";
  #poll;

  /** The document as it is now. */
  get state() {
    return this.#cockpit.state;
  }

  connectedCallback() {
    const state = parsed("round-state");
    const { links, advice } = parsed("round-setting");
    this.#links = links;
    this.#cockpit = new Cockpit({
      state, links, advice,
      offset: firstOffset(state.now),
      parts: Object.fromEntries(PARTS.map((name) => [name, this.querySelector(`[data-part="${name}"]`)])),
      onAsk: (id) => this.#ask(id),
      onDraw: (drawn) => this.#drawn(drawn),
    });
    this.#follow();
  }

  disconnectedCallback() {
    clearInterval(this.#poll);
    this.#listener?.close();
    this.#cockpit.close();
  }

  // --- What comes ---

  #follow() {
    if (isOver(this.state)) return;
    this.#listener = connect({
      after: this.state.cursor,
      subjects: { run: this.state.run.id },
      onEvents: (events) => this.#cockpit.take(events),
      onStatus: (status) => this.#connection(status),
    });
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
      const answer = await fetch(this.#links.state, { headers: { Accept: "application/json" } });
      if (answer.ok) this.#cockpit.catchUp(await answer.json());
    } catch {
      // The connection's own state tells of it.
    }
  }

  async #ask(id) {
    try {
      const answer = await fetch(this.#links.assignment.replace("{id}", id), { headers: { Accept: "application/json" } });
      const body = await answer.json();
      this.#cockpit.answer(id, answer.ok ? { detail: body.detail } : { error: body.detail ?? "The report cannot be read now." });
    } catch {
      this.#cockpit.answer(id, { error: "The server does not answer; close and open this to ask again." });
    }
  }

  // --- What the page shows around it ---

  #drawn(state) {
    const { round, run } = state;
    const chip = document.getElementById("round-phase");
    set(chip, { "data-state": round.phase });
    say(chip, round.phase);
    document.title = `Round ${round.number} ${round.phase} · fedserver`;
    const next = document.getElementById("round-next");
    if (run.next) {
      set(next, { href: this.#links.round.replace("{id}", run.next.id), hidden: null });
      say(next, `Round ${run.next.number} →`);
    }
    this.#decisions(state);
    if (this.#listener && isOver(state)) {
      this.#listener.close();
      this.#listener = null;
      clearInterval(this.#poll);
    }
  }

  #decisions(state) {
    const { round } = state;
    const { updates } = standing(state);
    const possible = { close: OPEN.includes(round.phase) && updates >= round.quorum, cancel: !ENDED.includes(round.phase) };
    for (const button of document.querySelectorAll("#round-decisions [data-verb]")) {
      set(button, { hidden: !possible[button.dataset.verb] });
    }
  }
}

/** The server's time less ours, at least: the document was read before its first byte came. */
function firstOffset(served) {
  const [navigation] = performance.getEntriesByType("navigation");
  const came = performance.timeOrigin + (navigation?.responseStart ?? 0);
  return Date.parse(served) - came;
}

customElements.define("fs-round", RoundPage);
