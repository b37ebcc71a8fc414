// <fs-upload>: around a form with files. It shows how much has arrived, and then for how long the
// server has been at work, which may take it half a minute. Without it the form does the same in
// silence.

class Upload extends HTMLElement {
  #request;
  #clock;

  connectedCallback() {
    this.addEventListener("submit", (event) => {
      event.preventDefault();
      event.target.dataset.sent = "1";
      this.#send(event.target);
    });
  }

  disconnectedCallback() {
    clearInterval(this.#clock);
  }

  #send(form) {
    const request = (this.#request = new XMLHttpRequest());
    request.open("POST", form.action);
    request.responseType = "document";
    request.upload.addEventListener("progress", ({ loaded, total }) => this.#tell(loaded / total));
    request.upload.addEventListener("load", () => this.#wait());
    request.addEventListener("load", () => this.#take());
    request.addEventListener("error", () => this.#fail());
    form.querySelector("button").disabled = true;
    this.querySelector(".upload-progress").hidden = false;
    request.send(new FormData(form));
    this.#tell(0);
  }

  #say(words) {
    this.querySelector(".upload-progress p").textContent = words;
  }

  #tell(part) {
    this.querySelector("progress").value = part;
    this.#say(`Uploading: ${Math.round(100 * part)} %`);
  }

  // Who listens is told once; the seconds are for those who look.
  #wait() {
    const began = Date.now();
    this.querySelector("progress").removeAttribute("value");
    this.#say("It is here, and being opened, checked and measured. ");
    const seconds = document.createElement("span");
    seconds.setAttribute("aria-hidden", "true");
    this.querySelector(".upload-progress p").append(seconds);
    this.#clock = setInterval(() => (seconds.textContent = `${Math.round((Date.now() - began) / 1000)} s`), 1000);
  }

  #take() {
    clearInterval(this.#clock);
    const { status, responseURL, responseXML } = this.#request;
    const answered = responseXML?.querySelector("fs-upload > form");
    if (status < 400) location.assign(responseURL);
    else if (answered) this.#correct(answered);
    else this.#fail();
  }

  // The form with its errors; the files that were chosen stay chosen.
  #correct(answered) {
    const old = this.querySelector("form");
    const form = document.adoptNode(answered);
    for (const input of old.querySelectorAll("input[type=file]")) form.querySelector(`#${input.id}`)?.replaceWith(input);
    old.replaceWith(form);
    form.querySelector(".notice")?.querySelector(".small")?.remove();
    const first = form.querySelector("[aria-invalid=true]") ?? form.querySelector(".notice");
    first?.focus();
  }

  #fail() {
    clearInterval(this.#clock);
    this.querySelector("form button").disabled = false;
    this.#say("The server did not answer. Nothing was registered; try again.");
  }
}

customElements.define("fs-upload", Upload);
