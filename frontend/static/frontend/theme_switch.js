// <fs-theme>: as the system has it, light, or dark; remembered under the name that the admin uses.

const CHOICES = ["auto", "light", "dark"];
const WORDS = { auto: "as the system", light: "light", dark: "dark" };

class ThemeSwitch extends HTMLElement {
  connectedCallback() {
    const button = document.createElement("button");
    button.className = "button";
    button.dataset.size = "small";
    button.addEventListener("click", () => this.#choose(this.#next()));
    this.replaceChildren(button);
    this.#say();
  }

  get #chosen() {
    const found = localStorage.getItem("theme");
    return CHOICES.includes(found) ? found : "auto";
  }

  #next() {
    return CHOICES[(CHOICES.indexOf(this.#chosen) + 1) % CHOICES.length];
  }

  #choose(theme) {
    localStorage.setItem("theme", theme);
    document.documentElement.dataset.theme = theme;
    this.#say();
  }

  #say() {
    this.firstElementChild.textContent = `Colours: ${WORDS[this.#chosen]}`;
  }
}

customElements.define("fs-theme", ThemeSwitch);
