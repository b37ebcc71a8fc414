// <fs-wizard preview="…"> around the form of a new run: one step at a time, and a preview that
// follows what is typed. Without this script the form is one long page, and works as well.

const PATIENCE = 250; // milliseconds after the last key

function button(text, attributes = {}) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "button";
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

class Wizard extends HTMLElement {
  #form;
  #steps;
  #tabs;
  #status = document.createElement("p");
  #at = 0;
  #touched = new Set();
  #timer;
  #asked = 0;
  #left; // the strategy before the kind of run was changed

  connectedCallback() {
    this.#form = this.querySelector("form");
    this.#steps = [...this.#form.querySelectorAll("fieldset.step")];
    this.#addWays();
    this.#form.querySelector("[data-look]").remove();
    this.#form.addEventListener("input", (event) => this.#changed(event.target));
    this.#form.addEventListener("keydown", (event) => this.#onKey(event));
    const wrong = this.#steps.findIndex((step) => "wrong" in step.dataset);
    for (const field of this.#form.querySelectorAll("[aria-invalid=true]")) this.#touched.add(field.name);
    this.#show(Math.max(0, wrong), false);
    if (wrong >= 0) this.#firstWrong(this.#steps[wrong])?.focus();
    this.#hideWhatDoesNotCount();
    document.getElementById("preview").addEventListener("click", (event) => this.#goTo(event));
    this.dataset.ready = "";
    this.#look();
  }

  #addWays() {
    const list = document.createElement("ol");
    list.className = "steps";
    this.#tabs = this.#steps.map((step, index) => {
      const tab = button(step.dataset.title);
      tab.className = "steps-tab";
      tab.addEventListener("click", () => this.#show(index));
      const item = document.createElement("li");
      item.append(tab);
      list.append(item);
      return tab;
    });
    const nav = document.createElement("nav");
    nav.setAttribute("aria-label", "Steps");
    nav.append(list);
    this.#status.className = "hidden-but-read";
    this.#status.setAttribute("role", "status");
    this.#form.before(nav, this.#status);
    this.back = button("Back");
    this.next = button("Next");
    this.back.addEventListener("click", () => this.#show(this.#at - 1));
    this.next.addEventListener("click", () => this.#show(this.#at + 1));
    this.#form.querySelector(".step-buttons").prepend(this.back, this.next);
  }

  #show(index, focus = true) {
    this.#at = Math.min(this.#steps.length - 1, Math.max(0, index));
    this.#steps.forEach((step, at) => (step.hidden = at !== this.#at));
    this.#tabs.forEach((tab, at) => {
      if (at === this.#at) tab.setAttribute("aria-current", "step");
      else tab.removeAttribute("aria-current");
    });
    this.#tabs[this.#at].scrollIntoView({ block: "nearest", inline: "nearest" });
    const last = this.#at === this.#steps.length - 1;
    this.back.disabled = this.#at === 0;
    this.next.disabled = last;
    this.next.dataset.kind = last ? "" : "primary";
    this.#form.querySelector("[name=start]").dataset.kind = last ? "primary" : "";
    if (focus) this.#steps[this.#at].querySelector("legend").focus();
  }

  // What is to be mended is said beside the form, and may be in another step.
  #goTo(event) {
    const id = event.target.closest("a[href^='#id_']")?.hash.slice(1);
    const field = id && document.getElementById(id);
    const step = this.#steps.findIndex((one) => one.contains(field));
    if (step < 0) return;
    event.preventDefault();
    this.#show(step, false);
    (field.matches("input, select") ? field : field.querySelector("input") ?? field).focus();
  }

  // Enter goes on to the next step; only in the last one, or on a button, it sends.
  #onKey(event) {
    if (event.key !== "Enter" || event.target.closest("button, textarea, summary, a")) return;
    if (this.#at === this.#steps.length - 1) return;
    event.preventDefault();
    this.#show(this.#at + 1);
  }

  #firstWrong(step) {
    const said = step.querySelector(".errorlist")?.closest("[data-field]");
    return step.querySelector("[aria-invalid=true]") ?? said?.querySelector("input");
  }

  #changed(field) {
    this.#touched.add(field.name);
    if (field.name === "strategy") this.#pick("kind", (one) => one.value === field.dataset.kind);
    if (field.name === "kind") this.#pickStrategy(field.value);
    this.#hideWhatDoesNotCount();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), PATIENCE);
  }

  // A buffered run needs a strategy for it, and such a strategy a buffered run.
  #pickStrategy(kind) {
    const before = this.#form.querySelector("[name=strategy]:checked");
    if (before?.dataset.kind === kind) return;
    const back = this.#left?.dataset.kind === kind ? this.#left : null;
    const found = this.#pick("strategy", (one) => (back ? one === back : one.dataset.kind === kind));
    this.#left = before;
    for (const drawer of this.#form.querySelectorAll(".drawer")) drawer.open = drawer.contains(found);
  }

  #pick(name, fits) {
    const found = [...this.#form.querySelectorAll(`[name=${name}]`)].find(fits);
    if (found) found.checked = true;
    return found;
  }

  // What is at fault is shown, whether it counts or not.
  #hideWhatDoesNotCount() {
    const value = (name) => this.#form.elements[name].value;
    for (const field of this.#form.querySelectorAll("[data-when], [data-follows]")) {
      const { when = "", follows } = field.dataset;
      const conditions = when.split(" ").filter(Boolean).map((one) => one.split("="));
      const counts = conditions.every(([name, values]) => values.split(",").includes(value(name)));
      const asked = !follows || !["", "0"].includes(value(follows).trim());
      const box = field.closest(".field");
      box.hidden = !(counts && asked) && !box.querySelector(".errorlist");
    }
  }

  async #look() {
    const asked = ++this.#asked;
    const fields = new URLSearchParams(new FormData(this.#form));
    fields.delete("csrfmiddlewaretoken");
    let told;
    try {
      const answer = await fetch(`${this.getAttribute("preview")}?${fields}`);
      if (!answer.ok) return;
      told = await answer.json();
    } catch {
      return; // cut off; the form works without
    }
    if (asked !== this.#asked) return; // something else was typed since
    this.#draw(told.html);
    this.#mark(told.errors);
    this.#hideWhatDoesNotCount();
    this.#sayWhoCannot(told.unable);
  }

  #draw(html) {
    const preview = document.getElementById("preview");
    const open = preview.querySelector("details")?.open;
    const page = new DOMParser().parseFromString(html, "text/html");
    preview.replaceChildren(...page.body.childNodes);
    const details = preview.querySelector("details");
    if (details && open) details.open = true;
  }

  #sayWhoCannot(text) {
    const card = this.#form.querySelector("[name=strategy]:checked")?.closest(".choice");
    const place = card?.querySelector("[data-unable]");
    if (!place) return;
    place.textContent = text;
    place.hidden = !text;
  }

  // Fields that are empty and that nobody has touched may still be filled: nothing is said of them.
  #mark(errors) {
    const all = [];
    this.#steps.forEach((step, index) => {
      let wrong = false;
      for (const box of step.querySelectorAll("[data-field]")) {
        const name = box.dataset.field;
        const filled = this.#touched.has(name) || this.#form.elements[name]?.value;
        const told = filled ? (errors[name] ?? []) : [];
        if (told.length) all.push(`${box.querySelector("legend, label").textContent}: ${told.join(" ")}`);
        wrong ||= told.length > 0;
        this.#say(box, told.join(" "));
      }
      this.#tabs[index].toggleAttribute("data-wrong", wrong);
    });
    const heard = all.join(" ");
    if (this.#status.textContent !== heard) this.#status.textContent = heard;
  }

  #say(box, text) {
    const group = box.matches("fieldset");
    const field = group ? box : box.querySelector("input, select, textarea");
    const id = `${group ? `id_${box.dataset.field}` : field.id}_error`;
    const others = (field.getAttribute("aria-describedby") ?? "").split(" ").filter((one) => one && one !== id);
    field.setAttribute("aria-describedby", (text ? [...others, id] : others).join(" "));
    if (!group) field.setAttribute("aria-invalid", String(Boolean(text)));
    let list = box.querySelector(":scope > .errorlist");
    if (!text) return list?.remove();
    if (list?.textContent.trim() === text) return;
    if (!list) {
      list = document.createElement("ul");
      list.className = "errorlist";
      (group ? box.querySelector("legend") : field).after(list);
    }
    list.id = id;
    const item = document.createElement("li");
    item.textContent = text;
    list.replaceChildren(item);
  }
}

customElements.define("fs-wizard", Wizard);
