// What happened in a round, newest first: time, sentence, reason.
//
// `data` is the state of a round, `links` may have a pattern for "participant". Many lines of a kind in
// a row become one that opens.
import { h, place, say, set } from "./dom.js";
import { count, inFull, timeOfDay } from "./numbers.js";
import { tell } from "./sentences.js";
import { VOID, outcome } from "./verdicts.js";

const MANY = 3;
const TOGETHER = {
  "assignment.invited": "{n} participants were invited",
  "assignment.training": "{n} participants began to train",
  "assignment.carried": "{n} participants go on in this round",
  "assignment.accepted": "{n} updates were accepted",
  "assignment.rejected": "{n} updates were rejected",
  "assignment.late": "{n} participants were late",
  "assignment.lost": "{n} participants were lost: nothing more was heard of them",
};
// The same where nobody is at fault: the round or the run has ended.
const SPARED = {
  "assignment.rejected": "{n} updates were not used",
  "assignment.late": "{n} participants were not needed any more",
};
const isVoid = ({ kind, data }) => kind in SPARED && outcome({ state: kind.split(".")[1], code: data.code }) === VOID;
const TONES = { failed: "bad", rejected: "bad", refused: "bad", stumbled: "bad", quarantined: "warn", late: "warn", lost: "warn", withdrawn: "warn", cancelled: "warn", stopped: "warn", retrying: "warn", published: "good", accepted: "good", completed: "good" };

function render({ model, el }) {
  const list = h("ol", { class: "fs-feed-list" });
  const scroller = h("div", { class: "fs-feed", tabindex: "0", role: "group", "aria-label": "Events" }, list);
  const entries = new Map();
  el.append(scroller);
  function draw() {
    const state = model.get("data");
    if (!state) return;
    const uuids = new Map(state.assignments.map(({ participant }) => [participant.id, participant.uuid]));
    const nodes = grouped(state.events).map((group) => {
      const key = group[0].id;
      if (!entries.has(key)) entries.set(key, new Entry());
      const entry = entries.get(key);
      entry.draw(group, uuids, model.get("links") ?? {});
      return entry.element;
    });
    nodes.reverse();
    place(list, nodes);
  }
  draw();
  model.on("change:data", draw);
  return () => {
    model.off("change:data", draw);
    scroller.remove();
  };
}

/** Lines in order, those of a kind together where they follow each other for the same reason. */
function grouped(events) {
  const groups = [];
  for (const event of events) {
    const last = groups.at(-1);
    const fits = last && event.kind in TOGETHER && last[0].kind === event.kind && last[0].reason === event.reason;
    if (fits) last.push(event);
    else groups.push([event]);
  }
  return groups.flatMap((group) => (group.length < MANY ? group.map((one) => [one]) : [group]));
}

class Entry {
  #size = 0;

  constructor() {
    this.time = h("time", {});
    this.words = h("div", { class: "fs-feed-words" });
    this.element = h("li", { class: "fs-feed-entry" }, this.time, this.words);
  }

  draw(group, uuids, links) {
    if (this.#size === group.length) return;
    const [first, newest] = [group[0], group.at(-1)];
    set(this.time, { datetime: newest.at, title: inFull(newest.at) });
    say(this.time, timeOfDay(newest.at));
    const tone = isVoid(first) ? null : TONES[first.kind.split(".")[1]];
    set(this.element, { "data-tone": tone ?? null, "data-kind": first.kind });
    if (group.length > 1) this.#drawMany(group);
    else this.#drawOne(first, uuids, links);
    this.#size = group.length;
  }

  #drawOne(event, uuids, links) {
    const names = { round: "the round", run: "the run" };
    const words = tell(event, names).map(({ text, of }) => {
      const uuid = of === "participant" ? uuids.get(event.participant) : null;
      return uuid && links.participant ? h("a", { href: links.participant.replace("{uuid}", uuid) }, text) : text;
    });
    const parts = [h("p", {}, ...words)];
    if (event.reason) parts.push(h("p", { class: "fs-feed-reason" }, event.reason));
    const byPerson = event.actor && event.actor !== event.data.name && !words.some((word) => word === event.actor);
    if (byPerson) parts.push(h("p", { class: "fs-feed-reason" }, `by ${event.actor}`));
    this.words.replaceChildren(...parts);
  }

  #drawMany(group) {
    if (!this.names) {
      this.summary = h("summary", {});
      this.names = h("p", { class: "fs-feed-reason" });
      this.words.replaceChildren(h("details", {}, this.summary, this.names));
      if (group[0].reason) this.words.append(h("p", { class: "fs-feed-reason" }, group[0].reason));
    }
    const words = isVoid(group[0]) ? SPARED : TOGETHER;
    say(this.summary, words[group[0].kind].replace("{n}", count(group.length)));
    say(this.names, group.map((event) => event.data.name).join(", "));
  }
}

export default { render };
