// What each kind of event says, in a sentence; the dashboard's Python reads the same table.
//
//   [list]       the first sentence whose values are all known is told
//   {name}       a value: data of the event, or one of its subjects ("round 3"); {metrics.loss} looks
//                deeper, {Round} begins a sentence
//   {x:share}    told as share, metric, count, size or seconds
//   {n|one|many} a word for the number; {x|this=that|=such} a word for the value, and for all others
//   [ … ]        left out when something in it is not known
//
// No sentence ends in a stop: the reason may follow.
import { count, inWords, percent, size } from "./numbers.js";

// prettier-ignore
export const SENTENCES = {
  "model.created": ["{actor} created the model {model}", "The model {model} was created"],

  "version.created": ["{Version} was made {origin|initial=as the first one|imported=from a file|round=by a round|rollback=by a roll-back}[ by {actor}]"],
  "version.measuring": ["{Version} is being measured"],
  "version.evaluated": ["{Version} was measured: accuracy {metrics.accuracy:share}[, loss {metrics.loss:metric}]", "{Version} was measured[: loss {metrics.loss:metric}]"],
  "version.published": ["{actor} published {version}", "{Version} is served from now on"],
  "version.rejected": ["{actor} rejected {version}", "{Version} was rejected"],
  "version.archived": ["{Version} was archived: another one is served"],
  "version.rolled_back": ["{actor} rolled back to version {to}, which is served as {version}", "Version {to} is served again, as {version}"],
  "version.exported": ["{actor} exported {version} as {format}", "{Version} was exported as {format}"],

  "participant.enrolled": ["{participant} enrolled"],
  "participant.suspended": ["{actor} suspended {participant}", "{participant} was suspended"],
  "participant.reinstated": ["{actor} reinstated {participant}", "{participant} was reinstated"],
  "participant.revoked": ["{actor} revoked {participant}", "{participant} was revoked"],
  "participant.rotated": ["{participant} changed its key"],
  "participant.left": ["{participant} left for good"],

  "join_code.created": ["{actor} made the join code {label}[, for {max_uses:count} {max_uses|participant|participants}]", "{actor} made a join code[ for {max_uses:count} {max_uses|participant|participants}]", "A join code was made[ for {max_uses:count} {max_uses|participant|participants}]"],
  "join_code.withdrawn": ["{actor} withdrew the join code {label}", "{actor} withdrew a join code", "A join code was withdrawn"],

  "token.created": ["{actor} made the personal token {label}[ for {user}]", "The personal token {label} was made[ for {user}]"],
  "token.deleted": ["{actor} deleted the personal token {label}[ of {user}]", "The personal token {label} was deleted[ of {user}]"],
  "person.password_changed": ["{actor} changed the password", "A password was changed"],

  "run.created": ["{actor} created the run {run}", "The run {run} was created"],
  "run.started": ["{actor} started {run}", "{Run} was started"],
  "run.paused": ["{actor} paused {run}", "{Run} was paused"],
  "run.resumed": ["{actor} resumed {run}", "{Run} was resumed"],
  "run.stopped": ["{actor} stopped {run}", "{Run} was stopped"],
  "run.completed": ["{Run} is completed[ after {rounds:count} {rounds|round|rounds}]"],
  "run.failed": ["{Run} failed[ after {failures:count} {failures|failed round|failed rounds} in a row]"],
  "run.retrying": ["{Run} tries again in {seconds:seconds}, after {failures:count} {failures|failed round|failed rounds} in a row", "{Run} tries again"],

  "round.opened": ["{Round} opened[, from version {base}]"],
  "round.checked_in": ["{checked_in:count}[ of {wanted:count}] {checked_in|participant has|participants have} checked in for {round}"],
  "round.has_room": ["{Round} has room for another participant"],
  "round.training": ["{Round} trains with {invited:count} {invited|participant|participants}[; {target:count} {target|update ends|updates end} it]", "{Round} trains"],
  "round.aggregating": ["{actor} closed {round}[ with {accepted:count} {accepted|update|updates}]", "{Round} is aggregated[ from {accepted:count} {accepted|update|updates}]"],
  "round.taken": ["A worker is {phase} {round}[, attempt {attempts}]"],
  "round.stumbled": ["A worker stumbled while {phase} {round}[, attempt {attempts}]"],
  "round.evaluating": ["{Round} is evaluated[: its candidate is version {version_number}]"],
  "round.published": ["{Round} published version {version_number}[, accuracy {metrics.accuracy:share}]", "{Round} was published[, accuracy {metrics.accuracy:share}]"],
  "round.failed": ["{Round} failed"],
  "round.cancelled": ["{actor} cancelled {round}", "{Round} was cancelled"],

  "evaluation.opened": ["{actor} asked participants to evaluate {version} on their own data[: {goal:count} {goal|report is|reports are} wanted]", "Participants are asked to evaluate version {version_number} on their own data[: {goal:count} {goal|report is|reports are} wanted]", "Participants are asked to evaluate {version} on their own data"],
  "evaluation.reported": ["{participant} has evaluated version {version_number}[: {reports:count} of {goal:count} have]", "{participant} has evaluated {version}"],
  "evaluation.done": ["{reports:count} {reports|participant has|participants have} evaluated version {version_number}[: accuracy {metrics.federated_accuracy:share}]", "Participants have evaluated {version}"],
  "evaluation.failed": ["Too few participants evaluated version {version_number}[: {reports:count} of at least {minimum:count}]", "Too few participants evaluated {version}"],
  "evaluation.cancelled": ["{actor} cancelled the evaluation of {version}", "The evaluation of {version} by participants was cancelled"],

  "assignment.invited": ["{participant} was invited"],
  "assignment.training": ["{participant} began to train"],
  "assignment.progress": ["{participant} is {activity}[, epoch {epoch}][ of {epochs}]", "{participant} goes on"],
  "assignment.uploaded": ["{participant} uploaded its update[: {samples:count} {samples|sample|samples}][, {bytes:size}]"],
  "assignment.carried": ["{participant} goes on in {round}"],
  "assignment.accepted": ["The update of {participant} was accepted[, {staleness:count} {staleness|version|versions} behind]"],
  "assignment.quarantined": ["The update of {participant} was set aside[: its norm is {norm:metric}][, and {limit:metric} the limit]"],
  "assignment.rejected": ["The update of {participant} was {code|run_completed=not used|run_stopped=not used|run_paused=not used|round_cancelled=not used|round_failed=not used|=rejected}", "The update of {participant} was rejected"],
  "assignment.refused": ["An upload of {participant} was refused"],
  "assignment.failed": ["{participant} could not do its part"],
  "assignment.withdrawn": ["{participant} withdrew"],
  "assignment.late": ["{participant} {code|run_completed=was not needed any more|run_stopped=was not needed any more|run_paused=was not needed any more|round_cancelled=was not needed any more|=was late}", "{participant} was late"],
  "assignment.lost": ["{participant} was lost: nothing more was heard of it"]
};

const SUBJECTS = ["actor", "model", "version", "run", "round", "assignment", "participant"];
// Whose names people have chosen: those are not touched, not even at the beginning of a sentence.
const OWN_NAMES = ["actor", "model", "run", "participant"];
// Where an event tells the name of its own subject.
const NAMED = { model: "slug", run: "name", participant: "name", assignment: "name" };

/**
 * An event in words.
 *
 * `names` holds what the host calls the subjects, as far as it knows: { run: "digits with fedavg" }.
 * Returns pieces in order, [{ text, of }]: `of` is the subject that a piece names, or null.
 */
export function tell(event, names = {}) {
  for (const sentence of SENTENCES[event.kind] ?? []) {
    const told = fill(sentence, event, names);
    if (told) return told;
  }
  return [{ text: event.kind, of: null }];
}

/** The same as one text. */
export function tellText(event, names = {}) {
  return tell(event, names).map((piece) => piece.text).join("");
}

function fill(sentence, event, names) {
  const pieces = [];
  for (const part of sentence.split(/(\[[^\]]*\])/)) {
    const optional = part.startsWith("[");
    const told = fillPart(optional ? part.slice(1, -1) : part, event, names);
    if (told) pieces.push(...told);
    else if (!optional) return null;
  }
  return pieces;
}

function fillPart(part, event, names) {
  const pieces = [];
  for (const token of part.split(/(\{[^}]*\})/)) {
    if (!token) continue;
    if (!token.startsWith("{")) pieces.push({ text: token, of: null });
    else {
      const piece = value(token.slice(1, -1), event, names);
      if (!piece) return null;
      pieces.push(piece);
    }
  }
  return pieces;
}

function value(token, event, names) {
  const [path, ...words] = token.split("|");
  const [key, format] = path.split(":");
  const name = key[0].toLowerCase() + key.slice(1);
  const of = SUBJECTS.includes(name) ? name : null;
  const found = of ? subject(name, event, names) : dig(event.data ?? {}, name);
  if (found === null || found === undefined || found === "") return null;
  let text = words.length ? word(found, words) : format ? FORMATS[format](found) : String(found);
  const own = OWN_NAMES.includes(name) && text !== `${name} ${event[name]}`;
  if (key !== name && !own) text = text[0].toUpperCase() + text.slice(1);
  return { text, of };
}

function subject(name, event, names) {
  if (names[name]) return names[name];
  if (name === "actor") return event.actor;
  const data = event.data ?? {};
  const [group] = event.kind.split(".");
  if (NAMED[name] && data[NAMED[name]] && (group === name || name === "participant")) return data[NAMED[name]];
  if (group === name && data.number) return `${name} ${data.number}`;
  return event[name] ? `${name} ${event[name]}` : null;
}

const dig = (data, path) => path.split(".").reduce((inner, key) => inner?.[key], data);

function word(found, words) {
  if (!words[0].includes("=")) return found === 1 ? words[0] : words[1];
  const chosen = words.find((one) => one.startsWith(`${found}=`)) ?? words.find((one) => one.startsWith("="));
  return chosen ? chosen.slice(chosen.indexOf("=") + 1) : String(found);
}

const FORMATS = {
  share: percent,
  metric: (value) => String(Number(Number(value).toPrecision(4))),
  count,
  size,
  seconds: (value) => (value < 10 ? `${Number(value.toFixed(1))} s` : inWords(Math.round(value))),
};
