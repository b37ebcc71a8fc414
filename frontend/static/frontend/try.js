// <fs-try>: a photo that is dropped, chosen or pasted, or a row of numbers, and a model's answer.
//
// The photo is shown from this browser's own memory, and sent as it is; a worker of the server
// answers the request. A newer question takes an older one's place.
import { h } from "../drawings/dom.js";
import { Model } from "../drawings/model.js";
import { percent, plain } from "../drawings/numbers.js";
import scores from "../drawings/scores.js";

const TYPES = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"];

const lasted = (seconds) => (seconds < 0.995 ? `${Math.max(1, Math.round(1000 * seconds))} ms` : `${seconds.toFixed(1)} s`);

// What can be done about each refusal, beside its reason.
const ADVICE = {
  photo_too_large: "Choose a smaller photo.",
  photo_unsupported: "Choose a JPEG, PNG, WebP, GIF or BMP.",
  try_unanswered: "See that the worker of the queue “evaluation” is running (manage.py up starts it), and try again.",
  try_busy: "Try again in a few seconds.",
};

class Try extends HTMLElement {
  #photo = null;
  #asking = null;
  #answer;
  #bars = new Model({ title: "All classes, the likeliest first" });

  connectedCallback() {
    this.#answer = this.querySelector(".answer");
    this.form = this.querySelector("form");
    scores.render({ model: this.#bars, el: this.querySelector(".answer-scores") });
    if (this.dataset.takes === "photo") this.#takePhotos();
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.dataset.takes === "row") this.#ask(this.form.elements.row.value, "text/plain");
    });
  }

  #takePhotos() {
    const drop = this.querySelector(".drop"), input = this.querySelector("#photo");
    input.addEventListener("change", () => this.#take(input.files[0]));
    this.form.elements.invert.addEventListener("change", () => this.#photo && this.#askPhoto());
    for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, (event) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") this.#take(event.dataTransfer.files[0]);
    });
    addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
      if (file) this.#take(file);
    });
  }

  #take(file) {
    if (!file) return;
    const most = Number(this.dataset.most) * 2 ** 20;
    if (!TYPES.includes(file.type)) return this.#refuse({ code: "photo_unsupported", detail: `${file.name || "It"} is ${file.type || "of no known type"}.` });
    if (file.size > most) return this.#refuse({ code: "photo_too_large", detail: `It has ${(file.size / 2 ** 20).toFixed(1)} MB of at most ${this.dataset.most}.` });
    this.#photo = file;
    const preview = this.querySelector(".preview");
    URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(file);
    preview.hidden = false;
    this.querySelector(".drop-words strong").textContent = "Drop another photo here";
    this.#askPhoto();
  }

  #askPhoto() {
    this.#ask(this.#photo, this.#photo.type, this.form.elements.invert.checked ? "?invert" : "");
  }

  async #ask(body, type, query = "") {
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController()), began = performance.now();
    this.#answer.setAttribute("aria-busy", "true");
    if (!this.#answer.querySelector(".answer-top")) this.#answer.replaceChildren(h("p", { class: "quiet" }, "Asking a worker …"));
    try {
      const answer = await fetch(this.form.action + query, {
        method: "POST", body, signal: asking.signal,
        headers: { "Content-Type": type, "X-CSRFToken": this.form.elements.csrfmiddlewaretoken.value },
      });
      const told = (answer.headers.get("Content-Type") ?? "").includes("json") ? await answer.json() : null;
      if (!told) this.#refuse({ code: "", detail: "The server's answer cannot be read. Load the page again, and try again." });
      else if (answer.ok) this.#show(told, (performance.now() - began) / 1000);
      else this.#refuse(told);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#refuse({ code: "", detail: "The server does not answer. Try again when it is back." });
    }
    this.#answer.removeAttribute("aria-busy");
  }

  #refuse({ code, detail, taken }) {
    const advice = code === "try_unanswered" && taken ? "It may be loading the model for the first time, or measuring a round. Try again." : ADVICE[code];
    const title = code === "try_unanswered" ? (taken ? "A worker is still at it." : "No worker answered.") : "That did not work.";
    this.#answer.replaceChildren(h("div", { class: "notice", "data-kind": "error" }, h("p", {}, h("strong", {}, title), ` ${detail}`), ...(advice ? [h("p", {}, advice)] : [])));
    this.#bars.set("data", { scores: [] });
    this.#answer.removeAttribute("aria-busy");
  }

  #show({ kind, scores: found, seen, version, seconds }, whole) {
    const sorted = kind === "values" ? found : [...found].sort((one, other) => other.score - one.score);
    const top = sorted[0];
    const title = { classes: top.label, labels: this.#those(sorted), values: found.length === 1 ? plain(top.score) : "" }[kind];
    const sure = kind === "classes" ? `${percent(top.score)} sure. ` : "";
    const words = h("div", {}, h("p", { class: "answer-label" }, title),
      h("p", { class: "quiet" }, `${sure}Version ${version} answered in ${lasted(whole)}, ${lasted(seconds)} of it in the model.`));
    const parts = [words];
    if (seen) parts.unshift(h("figure", { class: "seen" }, h("img", { src: seen, alt: "Your photo as the model saw it" }), h("figcaption", {}, "as the model saw it")));
    this.#answer.replaceChildren(h("div", { class: "answer-top" }, ...parts));
    this.#bars.set("data", { scores: kind === "values" && found.length === 1 ? [] : sorted, kind });
  }

  #those(sorted) {
    const likely = sorted.filter((one) => one.score > 0.5).map((one) => one.label);
    return likely.length ? likely.join(", ") : "None of them";
  }
}

customElements.define("fs-try", Try);
