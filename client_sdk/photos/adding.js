// Photos in: dropped, chosen, pasted, or by the camera; sent one after another.
import { h, say } from "../drawings/dom.js";
import { Camera } from "./camera.js";

const KINDS = "image/jpeg,image/png,image/webp,image/gif,image/bmp";
const MOST = 8 * 2 ** 20; // bytes; larger ones are made smaller here, before they are sent
const SIDE = 2048; // pixels, of those
const DROPS = matchMedia("(hover: hover)").matches; // nothing is dragged on a phone

export class Adding {
  #ask;
  #added;
  #queue = [];
  #sent = 0;
  #of = 0;
  #refused = [];
  #input = h("input", { type: "file", multiple: true, accept: KINDS, class: "lb-hidden", tabindex: "-1", "aria-hidden": "true" });
  #choose = h("button", { type: "button", class: "lb-button", "data-kind": "primary" }, "Choose photos");
  #shoot = h("button", { type: "button", class: "lb-button" }, "Use the camera");
  #lead = h("p", { class: "lb-drop-lead" });
  #told = h("p", { class: "lb-small", role: "status" });
  #bar = h("progress", { max: 1, value: 0, "aria-label": "Photos that are recognised", hidden: true });
  #notes = h("div", { class: "lb-notes", role: "status" });

  /** `added(id, known)` is told of each photo: its id, and its label if it was here already. */
  constructor(ask, added) {
    this.#ask = ask;
    this.#added = added;
    this.camera = new Camera((blob) => this.take([blob]), () => { this.#drop.hidden = false; this.#shoot.focus(); });
    this.#drop = h("div", { class: "lb-drop" },
      h("div", { class: "lb-drop-sign", "aria-hidden": "true" }), this.#lead,
      h("div", { class: "lb-buttons" }, this.#choose, this.#shoot, this.#input));
    this.element = h("div", { class: "lb-adding" }, this.#drop, this.camera.element, this.#bar, this.#told, this.#notes);
    this.#choose.addEventListener("click", () => this.#input.click());
    this.#shoot.addEventListener("click", () => { this.#drop.hidden = true; this.camera.start(); });
    this.#input.addEventListener("change", () => {
      this.take([...this.#input.files]);
      this.#input.value = ""; // the same file may be chosen again
    });
  }

  #drop;

  /** Let a whole area take what is dropped on it or pasted into it. */
  listen(area) {
    const over = (on) => this.#drop.classList.toggle("lb-over", on);
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) area.addEventListener(kind, (event) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
      event.preventDefault();
      event.stopPropagation(); // a notebook would open the file
      over(kind === "dragenter" || kind === "dragover");
      if (kind === "drop") this.take([...event.dataTransfer.files]);
    });
    const paste = (event) => {
      const files = [...(event.clipboardData?.files ?? [])].filter((one) => one.type.startsWith("image/"));
      if (files.length) this.take(files);
    };
    area.addEventListener("paste", paste);
    return () => area.removeEventListener("paste", paste);
  }

  show({ total, waiting }) {
    const some = total + waiting.length > 0;
    this.#drop.classList.toggle("lb-drop-small", some);
    say(this.#lead, !DROPS ? "From your files, or by the camera." : some ? "Drop more photos here, or paste them." : "Drop photos here, or paste them.");
  }

  take(files) {
    if (!this.#queue.length && this.#sent === this.#of) this.#sent = this.#of = 0;
    const idle = this.#sent === this.#of;
    this.#queue.push(...files);
    this.#of += files.length;
    if (idle) {
      this.#refused = [];
      this.#notes.replaceChildren();
      this.#work();
    }
  }

  async #work() {
    while (this.#queue.length) {
      const file = this.#queue.shift();
      this.#tell();
      try {
        const content = await contentOf(file);
        const { answer } = await this.#ask({ do: "add", name: file.name ?? "" }, [content]);
        this.#added(answer.photo.id, answer.known);
        if (answer.known) this.#note(`${file.name || "It"} is here already, as ${answer.known}.`, "info");
      } catch (error) {
        this.#note(`${file.name || "The photo"} was not added. ${error.message}`, "error");
      }
      this.#sent += 1;
    }
    this.#tell();
  }

  #tell() {
    const busy = this.#sent < this.#of;
    this.#bar.hidden = !busy || this.#of === 1;
    this.#bar.value = this.#of ? this.#sent / this.#of : 0;
    say(this.#told, !busy ? "" : this.#of === 1 ? "Recognising …" : `Recognising ${this.#sent + 1} of ${this.#of} …`);
  }

  #note(text, kind) {
    this.#refused.push(text);
    if (this.#refused.length <= 4) this.#notes.append(h("p", { class: "lb-notice", "data-kind": kind }, text));
    else say(this.#notes.lastElementChild, `… and ${this.#refused.length - 3} more like these.`);
  }
}

/** A file's bytes; of one that is too large, those of a smaller picture of it. */
async function contentOf(file) {
  if (file.size > MOST) {
    const picture = await createImageBitmap(file, { imageOrientation: "from-image" });
    const scale = Math.min(1, SIDE / Math.max(picture.width, picture.height));
    const canvas = h("canvas", { width: Math.round(scale * picture.width), height: Math.round(scale * picture.height) });
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    picture.close();
    return (await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95))).arrayBuffer();
  }
  return file.arrayBuffer();
}
