// Questions to the labeller in Python, over whatever the host's model sends them with: the socket of
// its page, or a notebook's kernel.

const PATIENCE = 180; // seconds; the first photo may wait for a model to be built

/** What the labeller refused, with its stable code. */
export class Refusal extends Error {
  constructor({ code, text }) {
    super(text);
    this.code = code;
  }
}

export class Asker {
  #model;
  #open = new Map();
  #mine = `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`; // other views ask too
  #last = 0;
  #hear = (content, buffers) => this.#heard(content, buffers ?? []);
  #lost = () => this.#end(new Refusal({ code: "lost", text: "The connection was lost." }));

  constructor(model) {
    this.#model = model;
    model.on("msg:custom", this.#hear);
    model.on("lost", this.#lost);
  }

  /** Ask, and wait for the answer: `{ answer, buffers }`. */
  ask(content, buffers = []) {
    const re = `${this.#mine}-${++this.#last}`;
    return new Promise((resolve, reject) => {
      const late = new Refusal({ code: "late", text: "There was no answer in time." });
      const timer = setTimeout(() => this.#settle(re, ({ reject }) => reject(late)), PATIENCE * 1000);
      this.#open.set(re, { resolve, reject, timer });
      try {
        this.#model.send({ ...content, re }, undefined, buffers);
      } catch {
        this.#settle(re, ({ reject }) => reject(new Refusal({ code: "lost", text: "The connection was lost." })));
      }
    });
  }

  close() {
    this.#model.off("msg:custom", this.#hear);
    this.#model.off("lost", this.#lost);
    this.#lost();
  }

  #heard(content, buffers) {
    this.#settle(content?.re, ({ resolve, reject }) => (content.error ? reject(new Refusal(content.error)) : resolve({ answer: content, buffers })));
  }

  #settle(re, how) {
    const one = this.#open.get(re);
    if (!one) return;
    this.#open.delete(re);
    clearTimeout(one.timer);
    how(one);
  }

  #end(error) {
    for (const re of [...this.#open.keys()]) this.#settle(re, ({ reject }) => reject(error));
  }
}
