// One's own photos by label: how many there are, and each to be looked at, relabelled or deleted.
import { h, place, say } from "../drawings/dom.js";
import { Labels } from "./labels.js";
import { Picture } from "./picture.js";
import { photos } from "./waiting.js";

const PAGE = 60;
const CHIPS = 24;

export class Gallery {
  #ask;
  #thumbs;
  #deleted;
  #state = null;
  #label = null; // only these; null: all
  #most = PAGE;
  #revision = null;
  #fetching = false;
  #photos = [];
  #items = new Map();
  #heading = h("h2", {});
  #where = h("p", { class: "lb-small lb-quiet" });
  #chips = h("div", { class: "lb-chips", role: "group", "aria-label": "Show the photos of a label" });
  #few = h("p", { class: "lb-notice", "data-kind": "warning" });
  #strange = h("p", { class: "lb-notice", "data-kind": "info" });
  #grid = h("ul", { class: "lb-grid" });
  #more = h("button", { type: "button", class: "lb-button" }, "Show more");
  #dialog;

  constructor(ask, thumbs, { id, deleted }) {
    this.#ask = ask;
    this.#thumbs = thumbs;
    this.#deleted = deleted;
    this.#dialog = new Closer(ask, { id, deleted, step: (by) => this.#step(by) });
    this.#more.addEventListener("click", () => { this.#most += PAGE; this.#fetch(); });
    this.element = h("section", { class: "lb-card lb-gallery", "aria-label": "Your photos" },
      h("div", { class: "lb-card-head" }, this.#heading, this.#where), this.#chips, this.#few, this.#strange, this.#grid, this.#more, this.#dialog.element);
  }

  show(state) {
    this.#state = state;
    const { labels, total, few, model, folder } = state;
    this.element.hidden = !total;
    say(this.#heading, `Your photos · ${total}`);
    say(this.#where, `On this machine only, in ${folder}`);
    if (this.#label !== null && !labels.some((one) => one.label === this.#label && one.count)) this.#label = null;
    this.#showChips(labels, total, few);
    const short = labels.filter((one) => one.known && one.count < few);
    this.#few.hidden = !short.length || !model;
    say(this.#few, `${tooFew(short)} ${few} or more of each label help the model most.`);
    const strange = labels.filter((one) => !one.known && one.count);
    this.#strange.hidden = !strange.length || !model;
    say(this.#strange, `${model?.name ?? "The model"} has no label ${strange.map((one) => `“${one.label}”`).join(", ")}: these photos are kept and not trained with.`);
    if (this.#revision !== state.revision) {
      this.#revision = state.revision;
      this.#fetch();
    }
    this.#dialog.know(state);
  }

  close() {
    this.#dialog.close();
  }

  #showChips(labels, total, few) {
    const all = chip("All", total, this.#label === null, "", () => this.#filter(null));
    const some = labels.filter((one) => one.count || labels.length <= CHIPS).slice(0, 200);
    const each = some.map(({ label, count, known }) =>
      chip(label, count, this.#label === label, known && count < few ? "few" : known ? "" : "strange", count ? () => this.#filter(label) : null));
    const focused = this.#chips.contains(this.#chips.getRootNode().activeElement) ? this.#chips.getRootNode().activeElement.dataset.label : null;
    this.#chips.replaceChildren(all, ...each);
    if (focused !== null) [...this.#chips.children].find((one) => one.dataset.label === focused)?.focus();
  }

  #filter(label) {
    this.#label = label;
    this.#most = PAGE;
    this.show(this.#state);
    this.#fetch();
  }

  async #fetch() {
    if (this.#fetching) return void (this.#again = true);
    this.#fetching = true;
    try {
      const found = [];
      let total = Infinity;
      while (found.length < Math.min(this.#most, total)) {
        const { answer } = await this.#ask({ do: "gallery", label: this.#label, start: found.length, count: Math.min(this.#most - found.length, 120) });
        found.push(...answer.photos);
        total = answer.total;
        if (!answer.photos.length) break;
      }
      this.#photos = found;
      this.#more.hidden = total <= found.length;
      this.#draw();
    } catch {
      // the next state asks again
    }
    this.#fetching = false;
    if (this.#again) {
      this.#again = false;
      this.#fetch();
    }
  }

  #again = false;

  #draw() {
    const kept = new Map();
    for (const { id, label } of this.#photos) {
      const one = this.#items.get(id) ?? this.#item(id);
      say(one.name, label);
      kept.set(id, one);
    }
    this.#items = kept;
    place(this.#grid, [...kept.values()].map((one) => one.element));
    for (const [id, one] of kept) this.#thumbs.show(one.image, id);
  }

  #item(id) {
    const image = h("img", { alt: "", width: 176, height: 176 });
    const name = h("span", { class: "lb-photo-name" });
    const button = h("button", { type: "button", class: "lb-photo" }, image, name);
    button.addEventListener("click", () => this.#dialog.open(id, button));
    return { image, name, button, element: h("li", {}, button) };
  }

  #step(by) {
    const ids = this.#photos.map((one) => one.id);
    const at = ids.indexOf(this.#dialog.id);
    if (at < 0 || ids.length < 2) return;
    const id = ids[(at + by + ids.length) % ids.length];
    this.#dialog.open(id, this.#items.get(id)?.button);
  }
}

function chip(label, count, pressed, kind, act) {
  const words = { few: `${photos(count)}, few`, strange: `${photos(count)}, no label of the model` }[kind] ?? photos(count);
  const one = h("button", { type: "button", class: "lb-chip", "data-kind": kind || null, "data-label": label, "aria-pressed": String(pressed), disabled: !act, title: words },
    h("span", { class: "lb-chip-name" }, label), h("span", { class: "lb-chip-count", "aria-hidden": "true" }, String(count)), h("span", { class: "lb-read" }, `, ${words}`));
  if (act) one.addEventListener("click", act);
  return one;
}

function tooFew(short) {
  const told = short.slice(0, 6).map(({ label, count }) => `${label} (${count || "none"})`);
  const rest = short.length > 6 ? ` and ${short.length - 6} more` : "";
  return `Few photos of ${told.join(", ")}${rest}.`;
}

/** One photo, close up. */
class Closer {
  #ask;
  #deleted;
  #step;
  #from = null;
  #state = null;
  #picture = new Picture();
  #title = h("h2", { class: "lb-title" });
  #said = h("p", { class: "lb-quiet" });
  #error = h("p", { class: "lb-error", role: "alert" });
  #labels;
  #shut = h("button", { type: "button", class: "lb-button" }, "Close");
  #delete = h("button", { type: "button", class: "lb-button", "data-kind": "danger" }, "Delete");
  #back = h("button", { type: "button", class: "lb-button", "data-size": "small", "aria-label": "The photo before" }, "‹");
  #on = h("button", { type: "button", class: "lb-button", "data-size": "small", "aria-label": "The next photo" }, "›");
  id = null;

  constructor(ask, { id, deleted, step }) {
    this.#ask = ask;
    this.#deleted = deleted;
    this.#step = step;
    this.#labels = new Labels((label) => this.#relabel(label), "Tap another label to correct it", `${id}-closer`);
    this.#title.id = `${id}-closer-title`;
    this.element = h("dialog", { class: "lb-closer", "aria-labelledby": this.#title.id },
      h("div", { class: "lb-recognised" },
        h("div", { class: "lb-recognised-picture" }, this.#picture.element, h("div", { class: "lb-buttons lb-steps" }, this.#back, this.#on)),
        h("div", { class: "lb-recognised-words" }, h("div", { class: "lb-recognised-title" }, this.#title, this.#said), this.#error, this.#labels.element,
          h("div", { class: "lb-buttons lb-closer-end" }, this.#shut, this.#delete))));
    this.#shut.addEventListener("click", () => this.close());
    this.#delete.addEventListener("click", () => this.#remove());
    this.#back.addEventListener("click", () => this.#step(-1));
    this.#on.addEventListener("click", () => this.#step(1));
    this.element.addEventListener("click", (event) => event.target === this.element && this.close());
    this.element.addEventListener("close", () => { this.id = null; this.#picture.clear(); this.#from?.focus(); });
    this.element.addEventListener("keydown", (event) => {
      if (!event.target.matches("input") && !event.ctrlKey && !event.metaKey && !event.altKey) this.#key(event.key);
      event.stopPropagation(); // none of a notebook's shortcuts
    });
  }

  #key(key) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[key];
    const label = this.#labels.of(key);
    if (by) this.#step(by);
    else if (label) this.#relabel(label);
    else if (key === "Delete") this.#remove();
  }

  know(state) {
    this.#state = state;
  }

  async open(id, from) {
    this.id = id;
    this.#from = from;
    say(this.#error, "");
    try {
      const { answer, buffers } = await this.#ask({ do: "look", id });
      if (this.id === id) this.#show(answer, buffers);
    } catch (error) {
      if (this.id === id) {
        this.#show({ photo: { id, label: null }, scores: [] }, []);
        say(this.#error, error.message);
      }
    }
    if (this.id === id && !this.element.open) this.element.showModal();
  }

  close() {
    if (this.element.open) this.element.close();
  }

  #show({ photo, scores, version }, buffers) {
    const { model, labels } = this.#state;
    const top = scores[0];
    this.#picture.show(buffers[0], photo.label ?? "A photo that cannot be shown", buffers[1]);
    say(this.#title, photo.label ?? "This photo cannot be shown");
    say(this.#said, !top ? "" : top.label === photo.label ? `Version ${version} sees it too.` : `Version ${version} takes it for ${top.label}.`);
    const known = model?.labels ?? [];
    const names = labels.map((one) => one.label);
    const choices = scores.length ? scores : (known.length ? known : names).map((label) => ({ label, score: null }));
    this.#labels.show(choices, { current: photo.label, free: !scores.length && !known.length, names });
  }

  async #relabel(label) {
    try {
      const { answer } = await this.#ask({ do: "label", id: this.id, label });
      await this.open(answer.photo.id, this.#from);
    } catch (error) {
      say(this.#error, error.message);
    }
  }

  async #remove() {
    try {
      await this.#ask({ do: "delete", id: this.id });
      this.#from = null;
      this.close();
      this.#deleted();
    } catch (error) {
      say(this.#error, error.message);
    }
  }
}
