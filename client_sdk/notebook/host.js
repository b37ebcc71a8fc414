// What the live views of a notebook share: the frame around their drawings, and the kernel behind them.
//
// A widget's `status` is { word, sentence }: how true it is what is shown, and why not. What is shown
// comes from the widget's values alone, so that a view that is opened later, or a second one, or one in
// a notebook that is read long after, shows the same.
import { h, say, set } from "../drawings/dom.js";

const WORDS = {
  connecting: "connecting…",
  live: "live",
  polling: "polling",
  offline: "cut off",
  refused: "refused",
  ended: "ended",
};

/** A heading, the state of the connection, and a place for what is shown below. */
export function frame(el) {
  const title = h("span", {});
  const chip = h("span", { class: "state", hidden: true });
  const status = h("span", { class: "fs-live-status", role: "status" });
  const lead = h("span", {});
  const link = h("a", { target: "_blank", rel: "noopener", hidden: true }, "Open on the dashboard");
  const trouble = h("div", { class: "fs-live-notices" });
  const head = h("div", { class: "fs-live-head" }, h("h2", {}, title, chip), status, h("p", { class: "fs-live-lead" }, lead, " ", link));
  const root = h("div", { class: "fs-live" }, head, trouble);
  el.classList.add("fedserver");
  el.append(root);
  return { root, title, chip, status, lead, link, trouble };
}

/** Shows a state by its word and colour. */
export function shown(chip, state) {
  set(chip, { "data-state": state, hidden: !state });
  say(chip, state ?? "");
}

/** Shows the widget's status, and tells the kernel that somebody looks; answers how to end that. */
export function attend(model, { status, trouble }) {
  const draw = () => {
    const { word = "connecting", sentence = "" } = model.get("status") ?? {};
    set(status, { "data-status": word });
    say(status, WORDS[word] ?? word);
    const bad = ["offline", "refused"].includes(word);
    trouble.replaceChildren(...(bad ? [warning(word, sentence)] : []));
  };
  const view = `${Date.now()}-${Math.random()}`; // a UUID is to be had over https only
  draw();
  model.on("change:status", draw);
  model.send({ type: "opened", view });
  return () => {
    model.off("change:status", draw);
    model.send({ type: "closed", view });
  };
}

function warning(word, sentence) {
  const title = word === "refused" ? "The server does not show this." : "Cut off: what you see may be old. It connects again by itself.";
  return h("div", { class: "notice", "data-kind": "error" }, h("p", {}, h("strong", {}, title)), sentence ? h("p", {}, sentence) : null);
}

/** A part of a view with its heading; answers the element for its drawing. */
export function section(parent, name, heading) {
  const inner = h("div", { "data-part": name });
  parent.append(h("section", { "data-section": name, "aria-label": heading }, h("h3", {}, heading), inner));
  return inner;
}
