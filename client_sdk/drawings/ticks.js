// One tick a second for all drawings of a page, and the server's time by which they count.

const listeners = new Set();
let timer = null;

/** Call a function once a second; returns how to end that. */
export function onTick(listener) {
  listeners.add(listener);
  timer ??= setInterval(() => [...listeners].forEach((one) => one()), 1000);
  return () => {
    listeners.delete(listener);
    if (listeners.size) return;
    clearInterval(timer);
    timer = null;
  };
}

/** The server's time in milliseconds: ours, and the `offset` that the host has found. */
export const now = (model) => Date.now() + (model.get("offset") ?? 0);
