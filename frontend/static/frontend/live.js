// The page's one live connection: a WebSocket that catches up from a cursor, however many listen.
//
//   const listener = connect({
//     after: 58,                     // the greatest event id that the page shows already
//     subjects: { round: 7 },        // what it is about; none: everything
//     kinds: ["run.", "round."],     // kinds and families of kinds; none: all of them
//     onEvents(events, cursor) {},   // each event once and in order; passing news have id null
//     onStatus(status) {},           // live, connecting, polling, offline or signed-out
//   });
//   listener.close();
//
// It never gives up: it connects again with growing pauses, at once when the browser comes back,
// and asks over HTTP for the same events where WebSockets do not get through.

const PAUSE = 250; // milliseconds before the first attempt to connect again, at most
const LONGEST_PAUSE = 10_000;
const OPENING = 8_000; // for one attempt
const PATIENCE = 4_000; // after which a page that connects again is cut off
const SILENCE = 30_000; // the server speaks every 10 to 20 seconds: after this it is gone
const POLL = 2_000;
const POLL_HIDDEN = 10_000;
const PAGE = 500; // lines of one poll
const ENDED = { signedOut: 4401, otherJournal: 4409 };
const POLLED = ["model", "run", "round", "participant"]; // the subjects that a poll can be about

const root = () => document.documentElement.dataset.root ?? "/";
const soon = (milliseconds) => milliseconds * (0.5 + Math.random() / 2);

/** A filter of events, as the server has it (journal/wish.py). */
export function takes({ subjects, kinds }, event) {
  const family = `${event.kind.split(".")[0]}.`;
  const named = !kinds?.length || kinds.includes(event.kind);
  if (!named && (event.id === null || !kinds.includes(family))) return false;
  return Object.entries(subjects).every(([name, id]) => event[name] === id);
}

/** The narrowest wish that has all that each of the listeners wishes. */
export function union(listeners) {
  const [first, ...others] = listeners;
  const shared = Object.entries(first.subjects).filter(([name, id]) =>
    others.every((other) => other.subjects[name] === id),
  );
  const kinds = listeners.every((one) => one.kinds?.length)
    ? [...new Set(listeners.flatMap((one) => one.kinds))].sort()
    : [];
  return { subjects: Object.fromEntries(shared), kinds };
}

class Listener {
  constructor({ after = 0, subjects = {}, kinds = [], onEvents, onStatus }) {
    Object.assign(this, { cursor: after, subjects, kinds, onEvents, onStatus });
  }

  hear(events, cursor) {
    const unseen = (one) => one.id === null || one.id > this.cursor;
    const fresh = events.filter((one) => unseen(one) && takes(this, one));
    this.cursor = Math.max(this.cursor, cursor);
    if (fresh.length) safely(() => this.onEvents?.(fresh, cursor));
  }
}

function safely(call) {
  try {
    call();
  } catch (error) {
    console.error(error); // one listener's mistake is not the others' trouble
  }
}

class Connection {
  status = null; // as long as nobody listens
  since = new Date();
  #listeners = new Set();
  #socket = null;
  #wish = "";
  #position = 0; // up to which the socket has told
  #failures = 0;
  #polling = false; // asking over HTTP, between attempts to open a socket
  #patience; // timers
  #attempt;
  #watchdog;
  #poll;
  #asking = null; // the request under way
  #planned = false;

  constructor() {
    addEventListener("online", () => this.#now());
    addEventListener("offline", () => this.#open()); // true or not, this finds out
    addEventListener("pagehide", () => this.#rest());
    addEventListener("pageshow", (event) => event.persisted && this.#now());
    document.addEventListener("visibilitychange", () => document.hidden || this.#now());
  }

  add(listener) {
    this.#listeners.add(listener);
    if (this.status) queueMicrotask(() => safely(() => listener.onStatus?.(this.status)));
    this.#plan();
  }

  remove(listener) {
    this.#listeners.delete(listener);
    this.#plan();
  }

  // Elements come and go together: what they wish is told once.
  #plan() {
    if (this.#planned) return;
    this.#planned = true;
    setTimeout(() => {
      this.#planned = false;
      this.#suit();
    });
  }

  #heard() {
    return [...this.#listeners].filter((one) => one.onEvents);
  }

  // Another wish begins with another socket: no frame can be taken for an answer to the wrong one.
  #suit() {
    if (this.status === "signed-out") return;
    const listeners = this.#heard();
    if (!listeners.length) return this.#rest();
    const wish = JSON.stringify(union(listeners));
    if (this.#socket && this.#wish === wish && this.#cursor() >= this.#position) return;
    this.#wish = wish;
    if (!this.status) this.#tell("connecting");
    this.#open();
  }

  #cursor() {
    return Math.min(...this.#heard().map((one) => one.cursor));
  }

  #open() {
    this.#close();
    if (!this.#heard().length || this.status === "signed-out") return;
    const url = new URL(`${root()}ws/live/`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#watch(OPENING);
    socket.onopen = () => {
      this.#watch(SILENCE);
      this.#position = this.#cursor();
      const { subjects, kinds } = JSON.parse(this.#wish);
      const wish = { after: this.#position, ...subjects };
      socket.send(JSON.stringify(kinds.length ? { ...wish, kinds } : wish));
    };
    socket.onmessage = ({ data }) => {
      const { events, cursor } = JSON.parse(data);
      this.#watch(SILENCE);
      this.#stopPolling();
      this.#failures = 0;
      this.#tell("live");
      this.#deliver(events, cursor);
    };
    socket.onclose = ({ code }) => this.#lost(code);
  }

  #deliver(events, cursor) {
    this.#position = Math.max(this.#position, cursor);
    for (const listener of this.#heard()) listener.hear(events, cursor);
  }

  #watch(milliseconds) {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#lost(), milliseconds);
  }

  #lost(code) {
    this.#close();
    // The server's journal is another one than what this page shows: nothing here holds any more.
    if (code === ENDED.otherJournal) return location.reload();
    this.#failures += 1;
    if (!this.#polling && this.status !== "offline") this.#tell("connecting");
    // The first attempt may come too early, the second says that something is in the way; whether
    // somebody is signed in, HTTP has the last word.
    const blocked = this.#failures > 1 || code === ENDED.signedOut;
    if (blocked && !this.#polling) this.#startPolling();
    this.#again(Math.min(LONGEST_PAUSE, PAUSE * 2 ** (this.#failures - 1)));
  }

  #again(milliseconds) {
    clearTimeout(this.#attempt);
    this.#attempt = setTimeout(() => this.#open(), soon(milliseconds));
  }

  #close() {
    clearTimeout(this.#attempt);
    clearTimeout(this.#watchdog);
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  // The page is being left, or nobody listens.
  #rest() {
    this.#close();
    this.#stopPolling();
  }

  // Whoever comes back does not wait.
  #now() {
    if (this.status === "live" && this.#socket?.readyState === WebSocket.OPEN) return;
    this.#open();
  }

  // --- Over HTTP ------------------------------------------------------------------------------

  #startPolling() {
    this.#polling = true;
    this.#ask();
  }

  #stopPolling() {
    this.#polling = false;
    clearTimeout(this.#poll);
    this.#asking?.abort();
    this.#asking = null;
  }

  async #ask() {
    const asking = new AbortController();
    this.#asking = asking;
    const limit = setTimeout(() => asking.abort(), OPENING);
    let again = POLL;
    try {
      again = await this.#page(asking.signal);
    } catch {
      if (this.#asking === asking) this.#tell("offline");
    } finally {
      clearTimeout(limit);
    }
    if (this.#asking !== asking || !this.#polling) return;
    if (again && document.hidden) again = POLL_HIDDEN;
    this.#poll = setTimeout(() => this.#ask(), again && soon(again));
  }

  // One page of events; how long to wait for the next.
  async #page(signal) {
    const { subjects } = JSON.parse(this.#wish);
    const asked = new URLSearchParams({ limit: PAGE, after: this.#cursor() });
    for (const name of POLLED) if (name in subjects) asked.set(name, subjects[name]);
    const answer = await fetch(`${root()}api/v1/events?${asked}`, { signal, cache: "no-store" });
    if (answer.status === 401 || answer.status === 403) return this.#signedOut();
    if (!answer.ok) throw new Error(`The server answered ${answer.status}`);
    const { events, next } = await answer.json();
    if (signal.aborted) return POLL;
    if (this.status !== "polling") {
      if (this.status === "offline") this.#again(0); // the server is there again
      this.#tell("polling");
    }
    this.#deliver(events, next);
    return events.length < PAGE ? POLL : 0;
  }

  // --- What is told ---------------------------------------------------------------------------

  #signedOut() {
    this.#rest();
    this.#tell("signed-out");
    location.reload(); // the server asks for signing in, and leads back here
  }

  #tell(status) {
    if (status === this.status) return;
    if (!["connecting", "offline"].includes(this.status)) this.since = new Date();
    this.status = status;
    clearTimeout(this.#patience);
    if (status === "connecting") this.#patience = setTimeout(() => this.#tell("offline"), PATIENCE);
    for (const listener of this.#listeners) safely(() => listener.onStatus?.(status));
  }
}

const connection = new Connection();

/** Listen to the page's connection; it is opened for the first listener. */
export function connect(options) {
  const listener = new Listener(options);
  connection.add(listener);
  return { close: () => connection.remove(listener) };
}

// <fs-connection>: says in words whether the page is up to date. A blip is not worth a word.

const WORDS = {
  live: "live",
  connecting: "reconnecting…",
  polling: "polling",
  offline: "cut off",
  "signed-out": "signed out",
};
const EXPLAINED = {
  live: "What happens is shown as it happens.",
  polling: "WebSockets do not get through: news comes every two seconds.",
};
const BLIP = 700;

class ConnectionStatus extends HTMLElement {
  #listener;
  #later;
  #said;

  connectedCallback() {
    this.setAttribute("role", "status");
    this.#listener = connect({ onStatus: (status) => this.#heard(status) });
  }

  disconnectedCallback() {
    this.#listener.close();
    clearTimeout(this.#later);
  }

  #heard(status) {
    clearTimeout(this.#later);
    this.#later = setTimeout(() => this.#say(status), status === "connecting" ? BLIP : 0);
  }

  #say(status) {
    if (status === this.#said) return;
    this.#said = this.dataset.status = status;
    const word = document.createElement("span");
    word.className = "connection-word";
    word.textContent = WORDS[status];
    this.title = EXPLAINED[status] ?? "";
    this.replaceChildren(word);
    if (status === "offline") this.append(this.#warning());
  }

  #warning() {
    const warning = document.createElement("p");
    warning.className = "cut-off";
    const time = connection.since.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    warning.textContent = `Cut off since ${time}: what you see may be old. This page connects again by itself.`;
    return warning;
  }
}

customElements.define("fs-connection", ConnectionStatus);
