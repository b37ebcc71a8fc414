// Taking part: the button, where one is in the round, the loss as it falls, and the receipt.
import { h, place, say, svg } from "../drawings/dom.js";
import { metric, plural, share, size } from "../drawings/numbers.js";
import { VOID, named, outcome } from "../drawings/verdicts.js";
import { photos } from "./waiting.js";

const STEPS = [["waiting", "Wait for a round"], ["downloading", "Fetch the model"], ["training", "Train here"], ["uploading", "Send the changes"], ["uploaded", "Verdict"]];
const AT = { preparing: 0, waiting: 0, offline: 0, downloading: 1, training: 2, uploading: 3, uploaded: 4, done: 5 };
const OVER = new Set(["done", "failed", "cancelled"]);
const NAMES = { epochs: "Epochs", batch_size: "Batch size", learning_rate: "Learning rate", optimizer: "Optimizer", momentum: "Momentum", max_steps: "Most steps" };
const NOW = {
  preparing: "Looking at your photos with the version that is out …",
  waiting: "Waiting for a round to open. It begins by itself.",
  offline: "The server does not answer. It is tried again and again.",
  downloading: "Fetching the model …",
  training: "Training on this machine …",
  uploading: "Sending what changed …",
  uploaded: "Sent. Waiting for the server's verdict …",
};
const VERDICTS = { [VOID]: named(VOID), accepted: "accepted", uploaded: "no verdict yet", quarantined: "put aside for a look", rejected: "not accepted", late: "too late", lost: "lost", failed: "failed", withdrawn: "withdrawn" };

export class Training {
  #ask;
  #button = h("button", { type: "button", class: "lb-button", "data-kind": "primary" }, "Train");
  #cancel = h("button", { type: "button", class: "lb-button" }, "Cancel");
  #lead = h("p", { class: "lb-quiet" });
  #steps = h("ol", { class: "lb-steps-list", "aria-label": "Where it is" });
  #now = h("p", { class: "lb-now", role: "status" });
  #bar = h("progress", { max: 1, "aria-label": "Epochs done" });
  #curve = new Curve();
  #settings = h("dl", { class: "lb-facts" });
  #used = h("details", { class: "lb-used", open: true }, h("summary", {}, "Settings of this round"));
  #receipt = h("div", { class: "lb-receipt" });
  #error = h("p", { class: "lb-error", role: "alert" });

  constructor(ask) {
    this.#ask = ask;
    this.#used.append(this.#settings);
    this.#button.addEventListener("click", () => this.#do("train"));
    this.#cancel.addEventListener("click", () => this.#do("cancel"));
    this.element = h("section", { class: "lb-card lb-training", "aria-label": "Train" },
      h("h2", {}, "Train"), this.#lead, this.#steps, this.#now, this.#bar, this.#curve.element, this.#used, this.#receipt, this.#error,
      h("div", { class: "lb-buttons" }, this.#button, this.#cancel));
    this.#steps.append(...STEPS.map(([, words]) => h("li", {}, words)));
  }

  show({ training, usable, total, model }) {
    const phase = training?.phase ?? null;
    const busy = phase !== null && !OVER.has(phase);
    const count = usable || (model ? 0 : total);
    say(this.#lead, count ? `Your ${photos(count)} ${plural(count, "takes", "take")} part in the next open round. ${plural(count, "It stays", "They stay")} here: what leaves is how the model's numbers changed, the count, and how well it went.`
      : "Label at least one photo. Then the model can learn from it, without the photo ever leaving this machine.");
    this.#lead.hidden = busy || phase === "done";
    this.#button.hidden = busy;
    this.#button.disabled = !count || (model && !model.photos);
    say(this.#button, phase === null ? "Train" : "Train again");
    this.#cancel.hidden = !busy;
    this.#cancel.disabled = Boolean(training?.cancelling);
    say(this.#cancel, training?.cancelling ? "Cancelling …" : "Cancel");
    this.#showSteps(busy, AT[phase] ?? 0);
    say(this.#now, this.#word(phase, training));
    this.#now.dataset.kind = phase === "failed" ? "error" : "";
    const epochs = training?.epochs ?? [];
    this.#bar.hidden = phase !== "training";
    if (training?.of) this.#bar.value = epochs.length / training.of;
    else this.#bar.removeAttribute("value");
    this.#curve.show(epochs, training?.of);
    this.#showSettings(training?.settings ?? {});
    this.#showReceipt(training?.receipt, phase);
  }

  #word(phase, training) {
    if (phase === null || phase === "done") return "";
    if (phase === "cancelled") return "Cancelled. Nothing was sent.";
    if (phase === "failed") return training.detail;
    const { assignment, detail } = training;
    const where = assignment && AT[phase] > 0 ? `Round ${assignment.number || assignment.round}, from version ${assignment.version}. ` : "";
    return `${where}${NOW[phase]}${phase === "waiting" && detail ? ` ${detail}` : ""}`;
  }

  #showSteps(busy, at) {
    this.#steps.hidden = !busy;
    [...this.#steps.children].forEach((one, place) => {
      one.dataset.state = place < at ? "past" : place === at ? "now" : "ahead";
      if (place === at) one.setAttribute("aria-current", "step");
      else one.removeAttribute("aria-current");
    });
  }

  #showSettings(settings) {
    const known = Object.entries(settings).filter(([name]) => name in NAMES);
    this.#used.hidden = !known.length;
    place(this.#settings, known.flatMap(([name, value]) => [h("dt", {}, NAMES[name]), h("dd", {}, String(value))]));
  }

  #showReceipt(receipt, phase) {
    this.#receipt.hidden = !receipt || phase !== "done";
    if (this.#receipt.hidden) return;
    const { number, round, version, samples, bytes, state, reason, code, published, final } = receipt;
    const why = reason || code?.replaceAll("_", " ");
    const found = outcome({ state, code });
    const came = published && (state === "accepted" ? `version ${published}` : `version ${published}, without it`);
    const lines = [
      ["Round", number || round], ["Trained from", version && `version ${version}`], ["Samples", samples], ["Sent", bytes && size(bytes)],
      ["Why", state === "accepted" ? "" : why], ["Came of it", came || (state !== "accepted" ? "" : final ? "no version" : "the round goes on")],
    ].filter(([, value]) => value);
    this.#receipt.replaceChildren(
      h("p", { class: "lb-receipt-head" }, h("strong", {}, "Receipt"), h("span", { class: "lb-state", "data-state": found }, VERDICTS[found] ?? found)),
      h("dl", { class: "lb-facts" }, ...lines.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])));
  }

  async #do(what) {
    say(this.#error, "");
    this.#button.disabled = true;
    try {
      await this.#ask({ do: what });
    } catch (error) {
      say(this.#error, error.message);
      this.#button.disabled = false;
    }
  }
}

const WIDTH = 320, HEIGHT = 120, LEFT = 42, RIGHT = 10, TOP = 10, BOTTOM = 22;

/** The loss by epoch. */
class Curve {
  #picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "lb-curve-picture" });
  #words = h("figcaption", { class: "lb-small" });
  element = h("figure", { class: "lb-curve", hidden: true }, this.#picture, this.#words);

  show(epochs, of) {
    const points = epochs.filter((one) => Number.isFinite(one.loss));
    this.element.hidden = !points.length;
    if (!points.length) return;
    const last = points.at(-1);
    const ends = Math.max(of ?? 0, last.epoch, 2);
    const most = Math.max(...points.map((one) => one.loss)), least = Math.min(0, ...points.map((one) => one.loss));
    const x = (epoch) => LEFT + ((epoch - 1) / (ends - 1)) * (WIDTH - LEFT - RIGHT);
    const y = (loss) => TOP + (1 - (loss - least) / (most - least || 1)) * (HEIGHT - TOP - BOTTOM);
    const path = points.map((one) => `${x(one.epoch).toFixed(1)},${y(one.loss).toFixed(1)}`);
    const ground = y(least);
    const text = (at, height, words, anchor) => { const one = svg("text", { x: at, y: height, "text-anchor": anchor }); one.textContent = words; return one; };
    this.#picture.replaceChildren(
      svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: ground, y2: ground, class: "lb-curve-ground" }),
      svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(most), y2: y(most), class: "lb-curve-line" }),
      svg("polygon", { points: `${x(points[0].epoch)},${ground} ${path.join(" ")} ${x(last.epoch)},${ground}`, class: "lb-curve-area" }),
      svg("polyline", { points: path.join(" ") }),
      svg("circle", { cx: x(last.epoch), cy: y(last.loss), r: 4 }),
      text(LEFT - 6, y(most) + 4, metric(most), "end"), text(LEFT - 6, ground + 4, metric(least), "end"),
      text(LEFT, HEIGHT - 4, "1", "middle"), text(WIDTH - RIGHT, HEIGHT - 4, String(ends), "end"), text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "epoch", "middle"));
    const right = Number.isFinite(last.accuracy) ? `, right in ${share(last.accuracy)}` : "";
    const told = `Loss ${metric(last.loss)} after epoch ${last.epoch}${of ? ` of ${of}` : ""}${right}`;
    this.#picture.setAttribute("aria-label", `${told}; it began at ${metric(points[0].loss)}`);
    say(this.#words, told);
  }
}
