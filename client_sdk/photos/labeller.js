// The labeller: photos in, what the model says of each, labels, a round, and what it changed.
//
// model.get("state")            what labeller.py tells: see `Labeller.state`
// model.send(content, , bytes)  what people do, answered by "msg:custom": see `Labeller.handle`
//
// Two hosts draw with it: the page of `fedclient photos`, over a socket (page.js), and a notebook,
// over its kernel (anywidget).
import { h, say, set } from "../drawings/dom.js";
import { Adding } from "./adding.js";
import { Changes } from "./changes.js";
import { Gallery } from "./gallery.js";
import { Asker } from "./messages.js";
import { Thumbs } from "./thumbs.js";
import { Training } from "./training.js";
import { Waiting, photos } from "./waiting.js";

const LOOK = 60; // seconds between questions for a newer version, while somebody looks at the page
const KEYS = matchMedia("(hover: hover)").matches;
let views = 0;

class Status {
  #name = h("strong", {});
  #version = h("span", { class: "lb-state" });
  #who = h("span", { class: "lb-quiet lb-small lb-who" });
  #busy = h("span", { class: "lb-busy", role: "status" });
  #bar = h("progress", { max: 1, "aria-label": "How far it is" });
  #next = h("p", { class: "lb-next", role: "status" });
  #trouble = h("p", { class: "lb-notice", "data-kind": "warning" });

  constructor() {
    this.element = h("div", { class: "lb-head" },
      h("div", { class: "lb-status" }, this.#name, this.#version, this.#busy, this.#bar, this.#who), this.#trouble, this.#next);
  }

  show(state) {
    const { model, trouble, busy, participant, server } = state;
    say(this.#name, model?.name ?? (trouble ? "No model yet" : "Looking for the model …"));
    this.#version.hidden = !model;
    if (model) {
      say(this.#version, `version ${model.version}${model.fresh ? "" : ", from this machine"}`);
      this.#version.dataset.state = model.fresh ? "published" : "paused";
    }
    say(this.#who, `${participant} · ${host(server)}`);
    this.#busy.hidden = !busy;
    say(this.#busy, busy ? `${busy.text} …` : "");
    this.#bar.hidden = !busy;
    if (busy && busy.part !== null) this.#bar.value = busy.part;
    else this.#bar.removeAttribute("value");
    this.#trouble.hidden = !trouble;
    say(this.#trouble, trouble?.text ?? "");
    say(this.#next, next(state));
  }
}

function host(server) {
  try {
    return new URL(server).host;
  } catch {
    return server;
  }
}

const letters = (labels) => labels.length > 0 && labels.every((label) => [...label].length === 1);

/** The keys that give labels; a model without labels has numbers in their place, and how many is not told. */
const keysOf = (labels) => (letters(labels) ? "its own key" : labels.length ? "the keys 1 to 9" : "a key");

/** The next step, in a sentence. */
function next({ waiting, total, usable, labels, few, model, training, changes }) {
  if (waiting.length) return `Next: give ${waiting.length === 1 ? "the photo its label" : `the ${waiting.length} photos their labels`}${model?.photos ? `, with a tap${KEYS ? ` or with ${keysOf(model.labels)}` : ""}` : ""}.`;
  if (model && !model.photos) return "";
  if (!total) return "Next: add a few photos of what the model should know. Each is recognised at once, here on this machine.";
  if (training && !["done", "failed", "cancelled"].includes(training.phase)) return "You can go on labelling meanwhile; this round takes the photos that were here when it began to train.";
  const short = labels.filter((one) => one.known && one.count < few);
  if (model && !usable) return `Next: give photos labels that ${model.name} knows.`;
  if (training?.phase === "done") return changes ? "Next: see what changed, and go on with more photos." : "Next: when a newer version is out, see below what it changed on your photos.";
  if (short.length && short.length < labels.length) return `Next: more photos of ${short[0].label}, or train with the ${photos(total)} that are here.`;
  return `Next: train with your ${photos(usable || total)}.`;
}

class Toast {
  #timer = 0;
  #words = h("span", {});
  #undo = h("button", { type: "button", class: "lb-button", "data-size": "small" }, "Undo");

  constructor(undo) {
    this.element = h("div", { class: "lb-toast", role: "status", hidden: true }, this.#words, this.#undo);
    this.#undo.addEventListener("click", () => { this.element.hidden = true; undo(); });
  }

  say(words) {
    clearTimeout(this.#timer);
    say(this.#words, words);
    this.element.hidden = false;
    this.#timer = setTimeout(() => { this.element.hidden = true; }, 12000);
  }
}

function render({ model, el }) {
  const id = `labeller-${++views}`;
  const asker = new Asker(model);
  const ask = (content, buffers) => asker.ask(content, buffers);
  const thumbs = new Thumbs(ask);
  const toast = new Toast(() => ask({ do: "undo" }).catch(() => {}));
  const deleted = () => toast.say("Deleted.");

  const status = new Status();
  const waiting = new Waiting(ask, thumbs, { id, deleted });
  const adding = new Adding(ask, (photo, known) => { if (!known) waiting.look(photo); });
  const training = new Training(ask);
  const changes = new Changes(ask, thumbs);
  const gallery = new Gallery(ask, thumbs, { id, deleted });
  const parts = [status, adding, waiting, training, changes, gallery];

  const alone = model.get("alone"); // a page of its own, and no cell among others
  const root = h("div", { class: alone ? "labeller" : "labeller fedserver", "data-lm-suppress-shortcuts": "true" },
    status.element,
    h("div", { class: "lb-columns" },
      h("section", { class: "lb-card", "aria-label": "Add photos" }, h("h2", {}, "Add photos"), adding.element),
      waiting.element, h("div", { class: "lb-side" }, training.element, changes.element), gallery.element),
    toast.element);
  const forget = adding.listen(alone ? document.body : root);
  el.replaceChildren(root);

  const show = () => {
    const state = model.get("state");
    set(root, { "aria-busy": state?.labels ? null : "true" });
    if (state?.labels) for (const part of parts) part.show(state);
  };
  const look = setInterval(() => {
    const state = model.get("state");
    if (!document.hidden && root.isConnected && state?.model && !state.busy) ask({ do: "refresh" }).catch(() => {});
  }, LOOK * 1000);
  model.on("change:state", show);
  show();
  return () => {
    model.off("change:state", show);
    clearInterval(look);
    forget();
    adding.camera.close();
    gallery.close();
    asker.close();
    thumbs.close();
  };
}

export default { render };
