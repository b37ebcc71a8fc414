// <fs-live kinds="run. round." run="3" cursor="58">…</fs-live>: a part of a page that stays true.
//
// When an event comes that it cares for, it asks the server for this part alone and morphs it in:
// focus, selection, scroll, opened details and what has been typed stay. Attributes:
//
//   kinds   kinds of events, and families of kinds (`run.`: all of a run's lines); none: all lines
//   model, version, run, round, assignment, participant   an id that events must carry
//   cursor  the journal's head when it was drawn; without it, it is asked for at once
//   src     another address than the page's own to ask
//   every   seconds after which it asks without an event: time passes by itself
//
// After each refresh the document hears "fs-refreshed". What an <fs-drawing> has drawn is its own.
import { connect } from "./live.js";
import { Idiomorph } from "./vendor/idiomorph/idiomorph.esm.js";

const SUBJECTS = ["model", "version", "run", "round", "assignment", "participant"];
const GATHER = 300; // milliseconds in which events become one refresh
const JITTER = 200; // so that all who watch do not come at once
const SPACING = 1000; // from one refresh to the next
const LONGEST_PAUSE = 30_000; // after errors
const HEADER = "Fedserver-Live";

class Live extends HTMLElement {
  #listener;
  #seen = 0; // the journal's head when what is shown was drawn
  #heard = 0; // the greatest id of an event that matters here
  #wanted = false;
  #asking = null;
  #timer;
  #failures = 0;
  #askedAt = -Infinity;
  #every;
  #shown = () => document.hidden || this.#plan();

  connectedCallback() {
    const cursor = this.getAttribute("cursor");
    if (cursor === null) this.#want();
    else this.#listen(Number(cursor));
    document.addEventListener("visibilitychange", this.#shown);
    const every = Number(this.getAttribute("every") ?? 0);
    if (every) this.#every = setInterval(() => this.#want(), every * 1000);
  }

  #listen(cursor) {
    this.#seen = this.#heard = cursor;
    this.#listener = connect({
      after: cursor,
      subjects: this.#subjects(),
      kinds: this.#kinds(),
      onEvents: (events) => this.#hear(events),
    });
  }

  disconnectedCallback() {
    this.#listener?.close();
    this.#listener = null;
    document.removeEventListener("visibilitychange", this.#shown);
    clearInterval(this.#every);
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#asking?.abort();
    this.#asking = null;
  }

  #kinds() {
    return (this.getAttribute("kinds") ?? "").split(/\s+/).filter(Boolean);
  }

  #subjects() {
    const told = SUBJECTS.filter((name) => this.hasAttribute(name));
    return Object.fromEntries(told.map((name) => [name, Number(this.getAttribute(name))]));
  }

  #hear(events) {
    this.#heard = Math.max(this.#heard, ...events.map((one) => one.id ?? 0));
    const passing = events.some((one) => one.id === null && this.#kinds().includes(one.kind));
    if (passing || this.#heard > this.#seen) this.#want();
  }

  #want() {
    this.#wanted = true;
    this.#plan();
  }

  // One timer at a time; who cannot be seen waits until somebody looks.
  #plan() {
    if (!this.#wanted || this.#timer || this.#asking || document.hidden) return;
    const since = performance.now() - this.#askedAt;
    const spacing = Math.min(LONGEST_PAUSE, SPACING * 2 ** this.#failures);
    const pause = Math.max(GATHER, spacing - since) + Math.random() * JITTER;
    this.#timer = setTimeout(() => this.#refresh(), pause);
  }

  async #refresh() {
    const asking = new AbortController();
    this.#asking = asking;
    this.#timer = null;
    this.#wanted = false;
    this.#askedAt = performance.now();
    try {
      await this.#ask(asking.signal);
      this.#failures = 0;
    } catch {
      this.#failures += 1; // what is shown stays, and <fs-connection> says if it may be old
      this.#wanted = true;
    }
    if (this.#asking !== asking) return;
    this.#asking = null;
    if (this.#heard > this.#seen) this.#wanted = true;
    this.#plan();
  }

  async #ask(signal) {
    const address = this.getAttribute("src") ?? location.pathname + location.search;
    const answer = await fetch(address, {
      signal,
      cache: "no-store",
      // Time passes without events: then what is drawn must be new all the same.
      headers: { [HEADER]: String(this.#heard), "Cache-Control": `max-age=${this.#oldest()}` },
    });
    if (answer.status === 401 || answer.status === 403) return location.reload();
    const drawn = answer.headers.get(HEADER);
    if (!answer.ok || drawn === null) throw new Error(`The server answered ${answer.status}`);
    const html = await answer.text();
    if (signal.aborted) return;
    this.#morph(html);
    if (this.#listener) this.#seen = Number(drawn);
    else this.#listen(Number(drawn));
  }

  #oldest() {
    return Math.floor(Number(this.getAttribute("every") ?? 180) / 3);
  }

  #morph(html) {
    Idiomorph.morph(this, html, {
      morphStyle: "innerHTML",
      callbacks: { beforeNodeMorphed, beforeAttributeUpdated },
    });
    document.dispatchEvent(new CustomEvent("fs-refreshed"));
  }
}

// A drawing's attributes are the page's, what is in it is its own.
function beforeNodeMorphed(old, fresh) {
  if (old.localName !== "fs-drawing" || fresh.localName !== "fs-drawing") return true;
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  return false;
}

// What the reader has opened, ticked or typed is theirs. Styles are those of scripts: the server
// sends none.
function beforeAttributeUpdated(name, element) {
  if (name === "style") return false;
  if (element.matches("details, dialog")) return name !== "open";
  if (element.matches("option")) return name !== "selected";
  if (!element.matches("input, textarea")) return true;
  if (name === "checked") return element.checked === element.defaultChecked;
  if (name !== "value") return true;
  return element !== document.activeElement && element.value === element.defaultValue;
}

customElements.define("fs-live", Live);
