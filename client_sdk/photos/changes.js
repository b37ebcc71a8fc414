// What changed: the version in use and the one before it, on one's own labelled photos.
import { h, place, say } from "../drawings/dom.js";
import { photos } from "./waiting.js";

const FIRST = 12;
const KINDS = { learned: "learned", lost: "unlearned", other: "wrong in another way", same: "as before" };

export class Changes {
  #ask;
  #thumbs;
  #told = null;
  #most = FIRST;
  #items = new Map();
  #lead = h("p", { class: "lb-quiet" });
  #bars = h("div", { class: "lb-versus" });
  #sum = h("p", { class: "lb-small" });
  #list = h("ul", { class: "lb-lines", "aria-label": "Photo by photo" });
  #more = h("button", { type: "button", class: "lb-button", "data-size": "small", hidden: true });
  #look = h("button", { type: "button", class: "lb-button", "data-size": "small" }, "Look for a newer version");
  #compare = h("button", { type: "button", class: "lb-button", "data-size": "small" }, "Compare again");
  #found = h("p", { class: "lb-small", role: "status" });

  constructor(ask, thumbs) {
    this.#ask = ask;
    this.#thumbs = thumbs;
    this.#more.addEventListener("click", () => { this.#most += 60; this.#fetch(); });
    this.#look.addEventListener("click", () => this.#refresh());
    this.#compare.addEventListener("click", () => this.#ask({ do: "compare" }).catch((error) => say(this.#found, error.message)));
    this.element = h("section", { class: "lb-card lb-changes", "aria-label": "What changed" },
      h("h2", {}, "What changed"), this.#lead, this.#bars, this.#sum, this.#list, this.#more, this.#found,
      h("div", { class: "lb-buttons" }, this.#look, this.#compare));
  }

  show(state) {
    const { changes, model, comparable, total } = state;
    say(this.#lead, changes ? "" : !model ? "Once there is a model, versions of it are compared here on your own photos."
      : comparable && total ? `Version ${model.version} is out; version ${comparable} has seen your photos before.`
        : `When a version after ${model.version} is out, the two are compared here on your own labelled photos.`);
    this.#lead.hidden = Boolean(changes);
    this.#compare.hidden = !comparable || !total;
    say(this.#compare, changes ? "Compare again" : "Compare");
    const key = changes && JSON.stringify(changes);
    if (key === this.#told) return;
    this.#told = key;
    this.#most = FIRST;
    this.#draw(changes);
    this.#fetch();
  }

  #draw(changes) {
    this.#bars.hidden = this.#sum.hidden = !changes;
    if (!changes) return;
    const { before, after, photos: count, right_before: was, right_after: is, left_out: out } = changes;
    const bar = (version, right, which) => {
      const fill = h("span", { class: "lb-versus-fill", "data-which": which });
      fill.style.width = `${count ? (100 * right) / count : 0}%`;
      return [h("span", {}, `Version ${version}`), h("span", { class: "lb-versus-bar", "aria-hidden": "true" }, fill), h("strong", {}, count ? `${Math.round((100 * right) / count)} %` : "–"), h("span", { class: "lb-quiet lb-small" }, `${right} of ${count}`)];
    };
    this.#bars.replaceChildren(...bar(before, was, "before"), ...bar(after, is, "after"));
    const parts = ["learned", "lost", "other", "same"].filter((kind) => changes[kind]).map((kind) => `${changes[kind]} ${KINDS[kind]}`);
    const left = out ? ` ${photos(out)} came too late for version ${before} to see.` : "";
    const words = count ? `Right on your own photos: ${parts.join(", ")}.${left}` : `No labelled photo was seen by both.${left}`;
    say(this.#sum, words);
  }

  async #fetch() {
    this.#more.hidden = true;
    if (!this.#told) return void place(this.#list, []);
    try {
      const { answer } = await this.#ask({ do: "changes", start: 0, count: Math.min(this.#most, 120) });
      this.#more.hidden = answer.lines.length >= answer.total || this.#most > 120;
      say(this.#more, `Show more of the ${answer.total} photos`);
      const kept = new Map();
      for (const line of answer.lines) {
        const one = this.#items.get(line.id) ?? this.#item();
        one.element.dataset.kind = line.kind;
        one.image.alt = `Your photo of ${line.label}`;
        say(one.label, line.label);
        say(one.words, line.before.label === line.after.label ? `still ${line.after.label}` : `${line.before.label} → ${line.after.label}`);
        say(one.kind, KINDS[line.kind]);
        kept.set(line.id, one);
      }
      this.#items = kept;
      place(this.#list, [...kept.values()].map((one) => one.element));
      for (const [id, one] of kept) this.#thumbs.show(one.image, id);
    } catch {
      // the next state draws it
    }
  }

  #item() {
    const image = h("img", { alt: "", width: 40, height: 40 }), label = h("strong", {}), words = h("span", { class: "lb-small" }), kind = h("span", { class: "lb-line-kind" });
    return { image, label, words, kind, element: h("li", {}, image, h("span", { class: "lb-line-words" }, label, words), kind) };
  }

  async #refresh() {
    this.#look.disabled = true;
    say(this.#found, "Asking the server …");
    try {
      const { answer } = await this.#ask({ do: "refresh" });
      say(this.#found, answer.newer ? "A newer version is out, and in use from now on." : answer.asked ? "No newer version is out." : "The server could not be asked.");
    } catch (error) {
      say(this.#found, error.message);
    }
    this.#look.disabled = false;
  }
}
