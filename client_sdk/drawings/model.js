// The model that a drawing gets from a page: what anywidget gives it in a notebook.

export class Model {
  #values;
  #listeners = new Map();

  constructor(values = {}) {
    this.#values = { ...values };
  }

  get(name) {
    return this.#values[name];
  }

  set(name, value) {
    this.#values[name] = value;
    this.tell(`change:${name}`);
  }

  /** Let those hear of it who listen to an event. */
  tell(event, ...told) {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) listener(...told);
  }

  on(event, listener) {
    if (!this.#listeners.has(event)) this.#listeners.set(event, new Set());
    this.#listeners.get(event).add(listener);
  }

  off(event, listener) {
    this.#listeners.get(event)?.delete(listener);
  }
}
