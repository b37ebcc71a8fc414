// The state of a round, and what an event makes of it: pure functions of plain documents.
//
//   state = fold(state, events)
//
// It starts with the document that the server reads (rounds/round_state.py) and has, after the events
// that follow the document's cursor, the document that the server would read then. An event that the
// document contains already changes nothing, so that no cursor need be exact:
//
//   - a line of the journal is known by its id; lines come in order, some perhaps twice
//   - phases and states only go forward, whatever comes late
//   - a hint (no id) tells a whole and not a change; an older one than the last is dropped
//
// A state is never changed in place: what is not different after `fold` is the same object as before.

const FEED = 200;
const PHASES = { selecting: 0, training: 1, aggregating: 2, evaluating: 3, published: 4, failed: 4, cancelled: 4 };
const STATES = {
  invited: 0, training: 1, uploaded: 2,
  accepted: 3, rejected: 3, quarantined: 3, failed: 3, late: 3, lost: 3, withdrawn: 3,
};
const PROGRESS = ["activity", "fraction", "epoch", "epochs", "metrics", "activities", "last_seen_at"];
const RUN_STATES = { started: "running", paused: "paused", resumed: "running", stopped: "stopped", completed: "completed", failed: "failed" };

/** The state after some events, in the order in which they came. */
export function fold(state, events) {
  const draft = new Draft(state);
  for (const event of events) draft.take(event);
  return draft.done();
}

// Where an assignment stands in the list; lists only grow at their end.
const places = new WeakMap();

function placesOf(assignments) {
  let found = places.get(assignments);
  if (!found) {
    found = new Map(assignments.map((one, place) => [one.id, place]));
    places.set(assignments, found);
  }
  return found;
}

class Draft {
  #before;
  #after;
  #norms = false;
  #grown = false;
  #owned = null; // the list that is this draft's own, and may be changed

  constructor(state) {
    this.#before = state;
    this.#after = { ...state };
  }

  take(event) {
    const state = this.#after;
    if (event.id !== null && event.id !== undefined) {
      if (event.id <= state.cursor) return;
      state.cursor = event.id;
    }
    if (event.run !== undefined && event.run !== state.run.id) return;
    const [subject, what] = event.kind.split(".");
    if (subject === "round" && event.round !== state.round.id) this.#neighbour(event, what);
    else if (subject === "round") this.#round(event, what);
    else if (subject === "assignment" && event.round === state.round.id) this.#assignment(event, what);
    else if (what === "carried" && event.data.before === state.round.id) this.#carriedOn(event);
    else if (subject === "evaluation" && event.round === state.round.id) this.#evaluation(event, what);
    else if (subject === "run") this.#run(event, what);
    if (event.id) this.#feed(event);
  }

  done() {
    const state = this.#after;
    if (this.#norms) state.norms = norms(judged(state), state.run.quarantine_factor);
    const same = Object.keys(state).every((name) => state[name] === this.#before[name]);
    return same ? this.#before : state;
  }

  #set(part, changes) {
    const old = this.#after[part];
    if (Object.keys(changes).some((name) => !alike(old[name], changes[name]))) {
      this.#after[part] = { ...old, ...changes };
    }
  }

  // A page that was drawn before the following round opened hears of its own run till then.
  #feed(event) {
    const state = this.#after;
    const ofRun = event.round === undefined && event.kind.startsWith("run.") && !state.run.next;
    if (event.round !== state.round.id && !ofRun) return;
    state.events = [...state.events, event].slice(-FEED);
  }

  // --- Rounds ---

  #neighbour(event, what) {
    const { number } = event.data;
    if (what === "opened" && number === this.#after.round.number + 1) {
      this.#set("run", { next: { id: event.round, number }, next_round_at: null });
    }
  }

  #round(event, what) {
    const { round, worker } = this.#after;
    const { data } = event;
    if (what === "checked_in") {
      if (round.phase === "selecting") this.#after.selecting = { checked_in: data.checked_in, wanted: data.wanted };
    } else if (what === "taken") {
      const current = data.phase === round.phase && data.attempts >= worker.attempts;
      if (current) this.#set("worker", { attempts: data.attempts, expires_at: data.expires_at });
    } else if (what === "stumbled") {
      if (data.phase !== round.phase || data.attempts < worker.attempts) return;
      this.#set("worker", { attempts: data.attempts, expires_at: null });
      this.#set("round", { reason: event.reason });
    } else if (what in PHASES && PHASES[what] > PHASES[round.phase]) {
      this.#phase(event, what);
    }
  }

  #phase(event, phase) {
    const { data, at } = event;
    const { round } = this.#after;
    const changes = { phase, deadline: data.deadline ?? null };
    changes[PHASES[phase] === PHASES.published ? "ended_at" : `${phase}_at`] = at;
    if (data.target !== undefined) changes.target = data.target;
    if (data.diagnostics) changes.diagnostics = data.diagnostics;
    if (event.version !== undefined && data.version_number !== undefined) {
      changes.version = { metrics: {}, ...round.version, id: event.version, number: data.version_number };
    }
    if (data.metrics && round.version) this.#measured(changes, data);
    if (phase === "published") changes.reason = "";
    if (phase === "failed") Object.assign(changes, { code: data.code, reason: event.reason });
    if (phase === "cancelled") Object.assign(changes, { code: "cancelled", reason: event.reason });
    this.#set("round", changes);
    this.#set("worker", { attempts: 0, expires_at: null });
    this.#after.selecting = null;
    if (phase === "published") this.#set("run", { failures: 0 });
  }

  // Whoever evaluates: opened, reported, and done, failed or cancelled. None of it without enough.
  #evaluation(event, what) {
    const { data, at } = event;
    const { evaluation, round } = this.#after;
    const changes = {};
    if (data.round_deadline) changes.deadline = data.round_deadline;
    if (data.metrics && round.version) this.#measured(changes, data);
    this.#set("round", changes);
    if (what === "opened") {
      const { goal, minimum, deadline } = data;
      this.#after.evaluation = {
        id: data.evaluation, state: "open", reason: "", goal, minimum, reports: 0, deadline,
        summary: null, opened_at: at, ended_at: null,
      };
      this.#set("worker", { attempts: 0, expires_at: null });
    } else if (evaluation) {
      const told = what === "reported" ? {} : { state: what, reason: event.reason, ended_at: at };
      if (data.summary) told.summary = data.summary;
      const reports = Math.max(evaluation.reports, data.reports ?? 0);
      this.#after.evaluation = { ...evaluation, ...told, reports };
    }
  }

  #measured(changes, data) {
    const { round } = this.#after;
    const version = changes.version ?? round.version;
    const some = Object.keys(data.metrics).length > 0;
    changes.version = { ...version, metrics: data.metrics };
    changes.base = { ...round.base, metrics: some ? data.base_metrics : {} };
  }

  #run(event, what) {
    const { data } = event;
    if (what === "retrying") {
      this.#set("run", { failures: data.failures, next_round_at: data.next_round_at });
    } else if (what in RUN_STATES) {
      const changes = { state: RUN_STATES[what], reason: event.reason };
      if (data.failures !== undefined) changes.failures = data.failures;
      this.#set("run", changes);
    }
  }

  // --- Assignments ---

  #assignment(event, what) {
    const place = placesOf(this.#after.assignments).get(event.assignment);
    if (place === undefined) {
      if (what === "invited") this.#invited(event);
      if (what === "carried") this.#carried(event);
      return;
    }
    const old = this.#after.assignments[place];
    if (what === "progress") this.#progress(place, old, { ...event.data, last_seen_at: event.at });
    else if (what === "refused") this.#put(place, { ...old, refusals: Math.max(old.refusals, event.data.refusals) });
    else if (STATES[what] > STATES[old.state]) this.#moved(place, old, event, what);
  }

  #invited(event) {
    const state = this.#after;
    const { name, uuid } = event.data;
    const assignment = {
      id: event.assignment,
      participant: { id: event.participant, uuid, name },
      state: "invited", code: "", reason: "", refusals: 0,
      base: state.round.base.number, invited_in: state.round.number, staleness: 0,
      activity: "", fraction: 0, epoch: null, epochs: null, metrics: {}, activities: {}, last_seen_at: null,
      update: null,
      invited_at: event.at, training_at: null, uploaded_at: null, ended_at: null,
    };
    this.#add(assignment);
    if (state.selecting && state.run.selection === "first_come") {
      this.#set("selecting", { checked_in: state.assignments.length });
    }
  }

  // From the round before: it has been at it for some time, or has uploaded already.
  #carried(event) {
    this.#add(event.data.place);
    if (event.data.place.update) this.#norms = true;
  }

  // To the round after: what is left keeps its order.
  #carriedOn(event) {
    const state = this.#after;
    const place = placesOf(state.assignments).get(event.assignment);
    if (place === undefined) return;
    this.#count(state.assignments[place].state, -1);
    this.#owned = state.assignments = state.assignments.filter((one) => one.id !== event.assignment);
    this.#grown = true; // its places are its own, and are counted anew
  }

  #add(assignment) {
    const known = placesOf(this.#own(true));
    known.set(assignment.id, this.#after.assignments.push(assignment) - 1);
    this.#count(assignment.state, 1);
  }

  #progress(place, old, told) {
    if (STATES[old.state] > STATES.training || !isLater(told.last_seen_at, old.last_seen_at)) return;
    this.#put(place, { ...old, ...pick(told) });
  }

  #moved(place, old, event, to) {
    const { data, at } = event;
    const changes = { state: to };
    if (data.progress) Object.assign(changes, to === "training" ? newest(old, data.progress) : data.progress);
    if (to === "training") changes.training_at = at;
    else if (to === "uploaded") {
      changes.uploaded_at = at;
      changes.update = { samples: data.samples, bytes: data.bytes, norm: data.norm, metrics: data.metrics };
      this.#norms = true;
    } else {
      changes.ended_at = at;
      if (data.code !== undefined) Object.assign(changes, { code: data.code, reason: event.reason });
      if (data.staleness !== undefined) changes.staleness = data.staleness;
    }
    this.#count(old.state, -1);
    this.#count(to, 1);
    this.#put(place, { ...old, ...changes });
  }

  #put(place, assignment) {
    this.#own()[place] = assignment;
  }

  #own(grows = false) {
    const state = this.#after;
    const known = placesOf(state.assignments);
    if (!this.#owned) {
      this.#owned = state.assignments = [...state.assignments];
      places.set(this.#owned, known);
    }
    // The places of a list that does not grow hold for its copy too.
    if (grows && !this.#grown) places.set(this.#owned, new Map(known));
    this.#grown ||= grows;
    return this.#owned;
  }

  #count(name, by) {
    this.#set("counts", { [name]: this.#after.counts[name] + by });
  }
}

const newest = (old, told) => (isLater(told.last_seen_at, old.last_seen_at) ? told : {});
const isLater = (one, other) => !other || (!!one && Date.parse(one) > Date.parse(other));
const pick = (told) => Object.fromEntries(PROGRESS.filter((name) => name in told).map((name) => [name, told[name]]));
const alike = (one, other) => one === other || JSON.stringify(one) === JSON.stringify(other);

// What has come since the round closed is judged by the next one.
const judged = ({ round, assignments }) => (PHASES[round.phase] <= PHASES.training ? assignments : assignments.filter((one) => one.state !== "uploaded"));

/** The median of the updates' norms and the limit that follows from it; null where there is none. */
export function norms(assignments, factor) {
  const found = assignments.filter((one) => one.update).map((one) => one.update.norm).sort((a, b) => a - b);
  if (!found.length) return { median: null, limit: null };
  const middle = found.length >> 1;
  const median = found.length % 2 ? found[middle] : (found[middle - 1] + found[middle]) / 2;
  const limit = factor && found.length >= 3 ? factor * median : 0;
  return { median, limit: limit || null };
}

/**
 * A state after another document of the same round was read: what is newer of the two.
 *
 * A document that is older than the state still knows how far everybody was: what came as hints, which
 * are said once and not kept.
 */
export function catchUp(state, document) {
  if (document.cursor >= state.cursor) return document;
  const hints = document.assignments
    .filter((one) => one.last_seen_at)
    .map((one) => ({ id: null, at: one.last_seen_at, kind: "assignment.progress", run: state.run.id, round: state.round.id, assignment: one.id, data: pick(one) }));
  return fold(state, hints);
}
