// The phases of a round: those that are done, the current one with its countdown, those to come; and
// its quorum and target as a bar that fills.
//
// `data` is the state of a round (round_state.js), `offset` the server's time less ours.
import { h, place, say, set } from "./dom.js";
import { roundEnd, standing } from "./forecast.js";
import { clockface, count, duration, inWords, plural, timeOfDay } from "./numbers.js";
import { now, onTick } from "./ticks.js";
import { named, outcomes } from "./verdicts.js";

const PHASES = ["selecting", "training", "aggregating", "evaluating"];
const ENDS = ["published", "failed", "cancelled"];
const MADE = ["aggregating", "evaluating", "published"]; // of updates that were accepted

function render({ model, el }) {
  const bar = phaseBar();
  const gauge = quorumGauge();
  const root = h("div", { class: "fs-phases" }, bar.element, gauge.element);
  el.append(root);
  function draw() {
    const state = model.get("data");
    if (!state) return;
    bar.draw(state, now(model));
    gauge.draw(state, now(model));
  }
  draw();
  model.on("change:data", draw);
  const stop = onTick(draw);
  return () => {
    model.off("change:data", draw);
    stop();
    root.remove();
  };
}

// --- The bar of phases --------------------------------------------------------------------------

function phaseBar() {
  const steps = [...PHASES, "end"].map(step);
  const element = h("ol", { class: "fs-phase-bar", "aria-label": "Phases" }, ...steps.map((one) => one.element));
  return { element, draw: (state, time) => spans(state, time).forEach((span, at) => steps[at].draw(span)) };
}

function step() {
  const name = h("span", { class: "fs-phase-name" });
  const took = h("span", { class: "fs-phase-took" });
  const fill = h("span", { class: "fs-phase-fill" });
  const track = h("span", { class: "fs-phase-track", "aria-hidden": "true" }, fill);
  const element = h("li", { class: "fs-phase" }, track, h("span", { class: "fs-phase-words" }, name, " ", took));
  return {
    element,
    draw(span) {
      set(element, { "data-phase": span.phase, "data-when": span.when, "aria-current": span.when === "current" ? "step" : null });
      say(name, span.phase);
      say(took, span.took);
      fill.style.inlineSize = `${100 * span.filled}%`;
    },
  };
}

/** What each step shows: { phase, when: done | current | to-come | skipped, took, filled }. */
function spans({ round }, time) {
  const began = PHASES.map((phase) => round[phase === "selecting" ? "opened_at" : `${phase}_at`]);
  const current = PHASES.indexOf(round.phase);
  const last = began.findLastIndex((moment) => moment);
  const found = PHASES.map((phase, at) => {
    const start = began[at] && Date.parse(began[at]);
    if (!start) return { phase, when: at < last ? "skipped" : current < 0 ? "skipped" : "to-come", took: "", filled: 0 };
    const following = began.slice(at + 1).find((moment) => moment) ?? round.ended_at;
    if (at === current) return { phase, when: "current", took: inWords((time - start) / 1000), filled: part(start, round.deadline, time) };
    const broken = at === last && round.phase !== "published";
    return { phase, when: broken ? "broken" : "done", took: duration((Date.parse(following) - start) / 1000), filled: 1 };
  });
  const ended = ENDS.includes(round.phase) ? round.phase : null;
  const total = ended ? `${duration((Date.parse(round.ended_at) - Date.parse(round.opened_at)) / 1000)} in all` : "";
  return [...found, { phase: ended ?? "published", when: ended ? "ended" : "to-come", took: total, filled: ended ? 1 : 0 }];
}

const part = (start, deadline, time) =>
  deadline ? Math.min(1, Math.max(0.02, (time - start) / (Date.parse(deadline) - start))) : 0.02;

// --- Quorum and target --------------------------------------------------------------------------

function quorumGauge() {
  const sentence = h("p", { class: "fs-gauge-sentence" });
  const more = h("p", { class: "fs-gauge-more" });
  const here = h("span", { class: "fs-gauge-here" });
  const working = h("span", { class: "fs-gauge-working" });
  const marks = h("div", { class: "fs-gauge-marks", "aria-hidden": "true" });
  const track = h("div", { class: "fs-gauge-track", role: "progressbar", "aria-label": "Updates", "aria-valuemin": 0 }, here, working);
  const left = h("p", { class: "fs-countdown" });
  const leftOf = h("p", { class: "fs-countdown-of" });
  const element = h(
    "div",
    { class: "fs-gauge" },
    h("div", { class: "fs-gauge-text" }, sentence, more),
    h("div", { class: "fs-gauge-bar" }, track, marks),
    h("div", { class: "fs-gauge-left" }, left, leftOf),
  );
  return {
    element,
    draw(state, time) {
      const scale = gaugeScale(state);
      set(element, { "data-phase": state.round.phase });
      say(sentence, mainSentence(state, scale));
      say(more, secondSentence(state, scale, time));
      here.style.inlineSize = `${(100 * Math.min(scale.here, scale.whole)) / scale.whole}%`;
      working.style.inlineSize = `${(100 * Math.min(scale.working, scale.whole - scale.here)) / scale.whole}%`;
      track.style.setProperty("--units", scale.whole <= 40 ? scale.whole : 1);
      set(track, { "aria-valuemax": scale.whole, "aria-valuenow": Math.min(scale.here, scale.whole), "aria-valuetext": sentence.textContent });
      set(track, { "aria-label": state.selecting ? "Participants" : "Updates", "data-enough": scale.here >= scale.least });
      drawMarks(marks, scale);
      drawCountdown(left, leftOf, state, time);
    },
  };
}

/** What the bar measures: participants while selecting, updates from then on; at last those that count. */
function gaugeScale(state) {
  const { round, run, selecting, assignments, counts } = state;
  if (selecting && run.selection !== "first_come") {
    const { checked_in: here, wanted } = selecting;
    return { here, working: 0, whole: Math.max(wanted, here, 1), least: run.fewest, leastWord: "least", goal: wanted, goalWord: "awaited" };
  }
  const { updates, working } = standing(state);
  const goal = round.target ?? selecting?.wanted ?? assignments.length;
  const whole = Math.max(goal, round.quorum, assignments.length, 1);
  const here = MADE.includes(round.phase) ? counts.accepted : updates;
  return { here, working, whole, least: round.quorum, leastWord: "quorum", goal, goalWord: "target" };
}

function drawMarks(marks, { whole, least, leastWord, goal, goalWord }) {
  const same = least === goal;
  const found = same
    ? [[least, `${leastWord} and ${goalWord}`]]
    : [[least, leastWord], [goal, goalWord]];
  place(marks, found.map(([value, word], at) => {
    const old = marks.children[at];
    const mark = old ?? h("span", { class: "fs-gauge-mark" }, h("span"));
    const where = (100 * value) / whole;
    mark.style.insetInlineStart = `${where}%`;
    set(mark, { "data-side": where > 80 || (at === 0 && !same && goal - least < whole / 4) ? "left" : where < 20 ? "right" : "middle" });
    say(mark.firstChild, `${word} ${count(value)}`);
    return mark;
  }));
}

function mainSentence(state, { here, least, goal }) {
  const { round, run, selecting, assignments, counts, worker } = state;
  if (round.phase === "selecting" && run.selection !== "first_come") {
    return `${count(here)} of ${count(selecting.wanted)} ${plural(selecting.wanted, "participant has", "participants have")} checked in.`;
  }
  if (round.phase === "selecting" || round.phase === "training") {
    const so = `${count(here)} of ${count(goal)} ${plural(goal, "update is", "updates are")} here`;
    if (here >= least) return here >= goal ? `${so}: the target is reached.` : `${so}; it may close with ${count(least)}.`;
    return `${so}; at least ${count(least)} ${plural(least, "is", "are")} needed.`;
  }
  const accepted = `${count(counts.accepted)} ${plural(counts.accepted, "update", "updates")}`;
  if (round.phase === "aggregating") {
    const now = worker.expires_at ? "being folded" : "accepted, to be folded";
    return `${accepted} ${plural(counts.accepted, "is", "are")} ${now} into a new version.`;
  }
  if (round.phase === "evaluating" && asked(state)) {
    const { reports, goal } = state.evaluation;
    return `${count(reports)} of ${count(goal)} ${plural(goal, "participant", "participants")} ${plural(reports, "has", "have")} evaluated version ${round.version?.number ?? ""}.`;
  }
  if (round.phase === "evaluating") {
    const now = worker.expires_at ? "is being" : "is to be";
    return `Version ${round.version?.number ?? ""}, made from ${accepted}, ${now} measured.`;
  }
  if (round.phase === "published") return `Version ${round.version?.number ?? ""} was made from ${accepted} of ${count(assignments.length)} invited.`;
  return `No version was published; the model stays at version ${round.base.number}.`;
}

function secondSentence(state, { here, working, least }, time) {
  const { round, run, worker } = state;
  if (round.phase === "selecting") {
    return run.selection === "first_come"
      ? "Who comes first is invited at once, and uploads count already."
      : here >= least
        ? "It starts when all have come, or when the time is up."
        : `It starts with at least ${count(least)}; if fewer have come when the time is up, it fails.`;
  }
  if (round.phase === "training") {
    const goal = round.target ?? 0;
    const end = roundEnd(state, time);
    const at = working ? `${count(working)} still at work` : "Nobody is at work any more";
    if (working && here + working < goal) {
      return `${at}; the target is out of reach, so it closes when they are done, or at the deadline.`;
    }
    if (!end) return `${at}.`;
    const when = `in ${inWords((end.at - time) / 1000)} (${timeOfDay(end.at, time, { seconds: false })})`;
    return end.by === "target" ? `${at}; the target is probably reached ${when}.` : `${at}; it probably closes at the deadline, ${when}.`;
  }
  if (round.phase === "evaluating" && asked(state)) return "On data of their own; the server has measured it, and nobody holds the round meanwhile.";
  if (round.phase === "aggregating" || round.phase === "evaluating") return workerSentence(worker, round, time);
  return inWordsOf(outcomes(state));
}

/** "9 accepted, 1 quarantined, 2 late": what became of everybody, in the end. */
const inWordsOf = (found) => Object.entries(found).map(([one, number]) => `${count(number)} ${named(one)}`).join(", ");

function workerSentence({ attempts, expires_at: expires }, round, time) {
  const attempt = attempts > 1 ? ` This is attempt ${attempts}.` : "";
  if (expires && Date.parse(expires) > time) return `A worker is at it.${attempt}`;
  if (expires) return `The worker that held it has not been heard of; another one may take over.${attempt}`;
  return round.reason ? `The last worker stumbled: ${round.reason}` : "Waiting for a worker.";
}

// Whether participants are waited for, who have a deadline of their own.
const asked = ({ evaluation }) => evaluation?.state === "open";

function drawCountdown(left, leftOf, state, time) {
  const deadline = asked(state) ? state.evaluation.deadline : state.round.deadline;
  const seconds = deadline ? (Date.parse(deadline) - time) / 1000 : null;
  const over = seconds !== null && seconds <= 0;
  say(left, seconds === null ? "" : over ? "0:00" : clockface(seconds));
  const latest = deadline ? timeOfDay(deadline, time) : "";
  say(leftOf, seconds === null ? "" : over ? "the time is up" : `until ${latest} at the latest`);
  set(left, { "data-soon": seconds !== null && seconds < 30 });
}

export default { render };
