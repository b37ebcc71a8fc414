// Small pictures of photos, asked for together when they come into view, and kept while they are used.

const KEPT = 600;
const AT_ONCE = 24;

export class Thumbs {
  #ask;
  #urls = new Map(); // id -> URL, the longest unused first
  #wanted = new Map(); // id -> images that wait for it
  #asking = false;
  #seen = new IntersectionObserver((entries) => this.#came(entries), { rootMargin: "300px" });

  constructor(ask) {
    this.#ask = ask;
  }

  /** Show a photo in an image, as soon as somebody can see it. */
  show(image, id) {
    if (image.dataset.photo === id) return;
    image.dataset.photo = id;
    const url = this.#urls.get(id);
    if (url) image.src = url;
    else {
      image.removeAttribute("src");
      this.#seen.unobserve(image); // so that what is in view already is told of again
      this.#seen.observe(image);
    }
  }

  close() {
    this.#seen.disconnect();
    for (const url of this.#urls.values()) URL.revokeObjectURL(url);
    this.#urls.clear();
  }

  #came(entries) {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.#seen.unobserve(target);
      const id = target.dataset.photo;
      if (this.#urls.has(id)) target.src = this.#urls.get(id);
      else this.#wanted.set(id, [...(this.#wanted.get(id) ?? []), target]);
    }
    if (!this.#asking) this.#fetch();
  }

  async #fetch() {
    this.#asking = true;
    while (this.#wanted.size) {
      const ids = [...this.#wanted.keys()].slice(0, AT_ONCE);
      const images = new Map(ids.map((id) => [id, this.#wanted.get(id)]));
      for (const id of ids) this.#wanted.delete(id);
      try {
        const { answer, buffers } = await this.#ask({ do: "thumbs", ids });
        answer.ids.forEach((id, place) => this.#keep(id, new Blob([buffers[place]])));
      } catch {
        continue; // they stay empty frames, with their labels
      }
      for (const [id, waiting] of images) {
        for (const image of waiting) {
          if (image.dataset.photo !== id) continue;
          if (this.#urls.has(id)) image.src = this.#urls.get(id);
          else image.dataset.broken = "";
        }
      }
    }
    this.#asking = false;
  }

  #keep(id, blob) {
    this.#urls.set(id, URL.createObjectURL(blob));
    while (this.#urls.size > KEPT) {
      const [oldest, url] = this.#urls.entries().next().value;
      this.#urls.delete(oldest);
      URL.revokeObjectURL(url);
    }
  }
}
