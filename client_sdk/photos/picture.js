// A photo at its size, and beside it what the model sees of it.
import { h } from "../drawings/dom.js";

export class Picture {
  #image = h("img", { class: "lb-picture", alt: "" });
  #seen = h("img", { alt: "The same as the model sees it" });
  #urls = [];

  constructor() {
    this.#inset = h("figure", { class: "lb-seen", hidden: true }, this.#seen, h("figcaption", {}, "as the model sees it"));
    this.element = h("div", { class: "lb-picture-frame" }, this.#image, this.#inset);
  }

  #inset;

  show(picture, words, seen) {
    this.clear();
    this.#image.alt = words;
    if (picture) this.#image.src = this.#url(picture);
    this.#inset.hidden = !seen;
    if (seen) this.#seen.src = this.#url(seen);
  }

  clear() {
    for (const url of this.#urls.splice(0)) URL.revokeObjectURL(url);
    this.#image.removeAttribute("src");
    this.#seen.removeAttribute("src");
  }

  #url(bytes) {
    const url = URL.createObjectURL(new Blob([bytes]));
    this.#urls.push(url);
    return url;
  }
}
