// All labels of a photo as buttons with bars: how sure the model is of each, and a tap gives it.
import { h, place, say } from "../drawings/dom.js";
import { percent } from "../drawings/numbers.js";

const FIRST = 12; // buttons, before somebody asks for the others

/** A share of one, rounded to neither nothing nor all that it is not. */
export const share = (score) => (score > 0 && score < 0.001 ? "< 0.1 %" : score < 1 && score > 0.999 ? "> 99.9 %" : percent(score));

class Choice {
  constructor(choose) {
    this.key = h("kbd", { class: "lb-key", "aria-hidden": "true" });
    this.name = h("span", { class: "lb-choice-name" });
    this.fill = h("span", { class: "lb-choice-fill" });
    this.value = h("span", { class: "lb-choice-value" });
    this.button = h("button", { type: "button", class: "lb-choice" },
      this.key, this.name, h("span", { class: "lb-choice-bar", "aria-hidden": "true" }, this.fill), this.value);
    this.button.addEventListener("click", () => choose(this.label));
    this.element = h("li", {}, this.button);
  }

  show({ label, score }, { number, keys, current }) {
    this.label = label;
    say(this.name, label);
    this.name.title = label; // it may be longer than its place
    say(this.key, number);
    this.key.hidden = !keys;
    this.key.style.visibility = number ? "visible" : "hidden"; // its place stays
    const known = score !== null && score !== undefined;
    say(this.value, known ? share(score) : "");
    this.fill.style.width = known ? `${100 * Math.min(1, Math.max(0, score))}%` : "0";
    this.fill.parentElement.hidden = !known;
    if (current === label) this.button.setAttribute("aria-current", "true");
    else this.button.removeAttribute("aria-current");
  }
}

export class Labels {
  #choose;
  #choices = [];
  #shown = [];
  #list = h("ol", { class: "lb-choices" });
  #find = h("input", { type: "search", class: "lb-find", placeholder: "Find a label", "aria-label": "Find a label", autocomplete: "off" });
  #more = h("button", { type: "button", class: "lb-button", "data-size": "small" });
  #own = h("form", { class: "lb-own" });
  #name;
  #all = false;
  #told = { scores: [], current: null };
  #names;

  /** `choose(label)` is told which one was tapped. `hint`: what the list is, for those who do not see it. */
  constructor(choose, hint, id) {
    this.#choose = choose;
    this.#list.setAttribute("aria-label", hint);
    this.#names = h("datalist", { id: `${id}-names` });
    this.#name = h("input", { type: "text", id: `${id}-own`, list: `${id}-names`, maxlength: 100, autocomplete: "off", required: true });
    this.#own.append(h("label", { for: `${id}-own` }, "Its label"), h("div", { class: "lb-own-row" }, this.#name, this.#names, h("button", { class: "lb-button", "data-kind": "primary" }, "Keep")));
    this.element = h("div", { class: "lb-labels" }, this.#find, this.#list, this.#more, this.#own);
    this.#find.addEventListener("input", () => this.#draw());
    this.#more.addEventListener("click", () => { this.#all = true; this.#draw(); });
    this.#own.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#name.value.trim()) this.#choose(this.#name.value.trim());
      this.#name.value = "";
    });
  }

  /** `free`: a label may be made up, for there is no model that has some. */
  show(scores, { current = null, free = false, names = [] } = {}) {
    this.#told = { scores, current };
    this.#own.hidden = !free;
    place(this.#names, free ? names.map((name) => h("option", { value: name })) : []);
    this.#draw();
  }

  /** The label of a key: 1 to 9 as the buttons stand; where labels are single letters or digits, these. */
  of(key) {
    if (this.#letters) return this.#told.scores.find((one) => one.label === key)?.label;
    return /^[1-9]$/.test(key) ? this.#shown[key - 1]?.label : undefined;
  }

  get #letters() {
    return this.#told.scores.every((one) => [...one.label].length === 1);
  }

  #draw() {
    const { scores, current } = this.#told;
    const many = scores.length > FIRST;
    this.#find.hidden = !many;
    const asked = many ? this.#find.value.trim().toLowerCase() : "";
    const found = asked ? scores.filter((one) => one.label.toLowerCase().includes(asked)) : scores;
    const most = this.#all ? found.length : FIRST;
    this.#shown = found.slice(0, most);
    while (this.#choices.length < this.#shown.length) this.#choices.push(new Choice((label) => this.#choose(label)));
    const keys = !this.#letters;
    this.#shown.forEach((one, at) => this.#choices[at].show(one, { number: at < 9 ? String(at + 1) : "", keys, current }));
    place(this.#list, this.#choices.slice(0, this.#shown.length).map((one) => one.element));
    this.#list.hidden = !this.#shown.length;
    this.#more.hidden = found.length <= most;
    say(this.#more, `Show all ${found.length} labels`);
  }
}
