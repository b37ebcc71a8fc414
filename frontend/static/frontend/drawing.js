// <fs-drawing module="curves" source="history"></fs-drawing>: a drawing module in a page.
//
// Its data is the JSON of the script whose id is `source`, and again whenever a live refresh has
// put another one in its place; its data-… attributes are further values of the drawing's model.
// A live refresh must leave what has been drawn alone: region.js does not look into an <fs-drawing>.
import { Model } from "../drawings/model.js";

class Drawing extends HTMLElement {
  #model = new Model();
  #stop;
  #shown;
  #watcher;

  async connectedCallback() {
    for (const [name, value] of Object.entries(this.dataset)) this.#model.set(name, value);
    this.#read();
    this.#watcher = new MutationObserver(() => this.#read());
    this.#watcher.observe(this.closest("fs-live") ?? document.body, {
      childList: true,
      characterData: true,
      subtree: true,
    });
    const { default: drawing } = await import(`../drawings/${this.getAttribute("module")}.js`);
    if (this.isConnected) this.#stop = drawing.render({ model: this.#model, el: this });
  }

  disconnectedCallback() {
    this.#watcher?.disconnect();
    this.#stop?.();
  }

  #read() {
    const text = document.getElementById(this.getAttribute("source"))?.textContent;
    if (text === undefined || text === this.#shown) return;
    this.#shown = text;
    this.#model.set("data", JSON.parse(text));
  }
}

customElements.define("fs-drawing", Drawing);
