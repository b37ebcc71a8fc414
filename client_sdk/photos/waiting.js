// The photo that waits for its label: what the model says of it, and a tap that keeps it.
import { h, place, say } from "../drawings/dom.js";
import { plural } from "../drawings/numbers.js";
import { Labels, share } from "./labels.js";
import { Picture } from "./picture.js";

export class Waiting {
  #ask;
  #state = null;
  #current = null; // id
  #recognised = null; // what is shown: { id, version }
  #busy = false;
  #strip = h("ul", { class: "lb-strip", "aria-label": "Photos that wait for a label" });
  #thumbs;
  #items = new Map();
  #picture = new Picture();
  #title = h("h3", { class: "lb-title" });
  #sure = h("p", { class: "lb-quiet" });
  #keep = h("button", { type: "button", class: "lb-button", "data-kind": "primary" });
  #all = h("button", { type: "button", class: "lb-button", "data-size": "small" });
  #drop = h("button", { type: "button", class: "lb-button lb-ghost" }, "Discard");
  #error = h("p", { class: "lb-error", role: "alert" });
  #labels;
  #heading = h("h2", {});

  constructor(ask, thumbs, { id, deleted }) {
    this.#ask = ask;
    this.#thumbs = thumbs;
    this.#deleted = deleted;
    this.#labels = new Labels((label) => this.#label(label), "All labels, the likeliest first. Tap one to keep the photo under it", `${id}-waiting`);
    this.#keep.addEventListener("click", () => this.#top && this.#label(this.#top));
    this.#all.addEventListener("click", () => this.#do({ do: "label_all" }));
    this.#drop.addEventListener("click", () => this.#discard());
    this.element = h("section", { class: "lb-card lb-waiting", "aria-label": "Label", hidden: true, tabindex: "-1" },
      h("div", { class: "lb-card-head" }, this.#heading, this.#all), this.#strip,
      h("div", { class: "lb-recognised" },
        h("div", { class: "lb-recognised-picture" }, this.#picture.element),
        h("div", { class: "lb-recognised-words" },
          h("div", { class: "lb-recognised-title", role: "status" }, this.#title, this.#sure),
          h("div", { class: "lb-buttons" }, this.#keep, this.#drop), this.#error, this.#labels.element)));
    this.element.addEventListener("keydown", (event) => this.#key(event));
  }

  #deleted;
  #top = null;

  /** Put this photo before the person. */
  look(id) {
    if (!this.#current || !this.#waits(this.#current)) this.#current = id;
  }

  show(state) {
    this.#state = state;
    const { waiting } = state;
    this.element.hidden = !waiting.length;
    if (!waiting.length) {
      this.#current = this.#recognised = null;
      this.#picture.clear();
      return;
    }
    if (!this.#waits(this.#current)) this.#current = waiting[0].id;
    const left = waiting.length;
    say(this.#heading, left === 1 ? "What is this?" : `${left} photos wait for their label`);
    this.#strip.hidden = left === 1;
    this.#showStrip(waiting);
    const sure = waiting.filter((one) => one.top).length;
    this.#all.hidden = left === 1 || !sure;
    say(this.#all, `Keep all ${sure} as recognised`);
    const version = state.model?.photos ? state.model.version : null;
    const told = this.#recognised;
    if (told?.id !== this.#current || told.version !== version) this.#fetch(this.#current, version);
  }

  #waits(id) {
    return this.#state?.waiting.some((one) => one.id === id);
  }

  #showStrip(waiting) {
    for (const { id } of waiting) {
      if (this.#items.has(id)) continue;
      const image = h("img", { alt: "" });
      const name = h("span", { class: "lb-strip-name" });
      const button = h("button", { type: "button", class: "lb-strip-one" }, image, name);
      button.addEventListener("click", () => { this.#current = id; this.show(this.#state); });
      this.#items.set(id, { image, name, button, element: h("li", {}, button) });
    }
    for (const id of this.#items.keys()) if (!waiting.some((one) => one.id === id)) this.#items.delete(id);
    for (const { id, top } of waiting) {
      const one = this.#items.get(id);
      say(one.name, top?.label ?? "?");
      if (id === this.#current) one.button.setAttribute("aria-current", "true");
      else one.button.removeAttribute("aria-current");
    }
    place(this.#strip, waiting.map(({ id }) => this.#items.get(id).element));
    if (!this.#strip.hidden) for (const { id } of waiting) this.#thumbs.show(this.#items.get(id).image, id);
  }

  async #fetch(id, version) {
    this.#recognised = { id, version };
    this.element.setAttribute("aria-busy", "true");
    try {
      const { answer, buffers } = await this.#ask({ do: "look", id });
      if (this.#recognised?.id === id) this.#tell(answer, buffers);
    } catch (error) {
      if (this.#recognised?.id === id) {
        say(this.#error, error.message);
        this.#tell({ scores: [], photo: { id } }, []);
      }
    }
    if (this.#recognised?.id === id) this.element.removeAttribute("aria-busy");
  }

  #tell({ scores }, buffers) {
    const { model, labels } = this.#state;
    this.#top = scores[0]?.label ?? null;
    this.#picture.show(buffers[0], this.#top ? `Your photo, which looks like ${this.#top}` : "Your photo", buffers[1]);
    say(this.#title, this.#top ?? "Which label is it?");
    say(this.#sure, this.#top ? `${share(scores[0].score)} sure, says version ${model?.version ?? ""}. Wrong? Tap the right label.` : "Nothing can recognise it yet. Choose its label, or make one up.");
    this.#keep.hidden = !this.#top;
    say(this.#keep, `Keep as ${this.#top ?? ""}`);
    const known = model?.labels ?? [];
    const names = labels.map((one) => one.label);
    const choices = scores.length ? scores : (known.length ? known : names).map((label) => ({ label, score: null }));
    this.#labels.show(choices, { current: this.#top, free: !scores.length && !known.length, names });
  }

  #label(label) {
    return this.#do({ do: "label", id: this.#current, label });
  }

  async #discard() {
    const id = this.#current;
    if (await this.#do({ do: "delete", id })) this.#deleted();
  }

  async #do(content) {
    if (this.#busy) return false;
    this.#busy = true;
    say(this.#error, "");
    const last = this.#state.waiting.length === 1;
    try {
      await this.#ask(content);
      if (!last) this.element.focus({ preventScroll: true }); // so that 1 to 9 go on with the next
      return true;
    } catch (error) {
      say(this.#error, error.message);
      return false;
    } finally {
      this.#busy = false;
    }
  }

  #key(event) {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const label = this.#labels.of(event.key);
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (label) this.#label(label);
    else if (event.key === "Enter" && event.target === this.element && this.#top) this.#label(this.#top);
    else if (event.key === "Delete") this.#discard();
    else if (move) this.#step(move);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #step(by) {
    const ids = this.#state.waiting.map((one) => one.id);
    const at = (ids.indexOf(this.#current) + by + ids.length) % ids.length;
    this.#current = ids[at];
    this.show(this.#state);
  }
}

export const photos = (count) => `${count} ${plural(count, "photo", "photos")}`;
