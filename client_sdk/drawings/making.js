// How a round's version was made: what the strategy tells of it in words and units, who was left out,
// and in an asynchronous run who came from which round.
//
// `data` is the state of a round (round_state.js).
import { h, place, say, svg } from "./dom.js";
import { count, metric, percent, plural } from "./numbers.js";
import { named, outcome } from "./verdicts.js";

const ENDED = ["published", "failed", "cancelled"];
const many = (one, more) => (value) => `${count(value)} ${plural(value, one, more)}`;
const updates = many("update", "updates");
const versions = (value) => `${Number.isInteger(value) ? value : value.toFixed(1)} ${plural(value, "version", "versions")}`;
const steps = (value) => `${value >= 100 ? count(value) : Number(value.toPrecision(3))} steps`;

// What strategies tell: its name, its unit, and what it means. Of others their names are shown.
const WORDS = {
  participants: ["Updates folded", count],
  samples: ["Samples behind them", count],
  delta_norm: ["Length of the step", metric, "L2 norm of what was added to all weights"],
  momentum_norm: ["Length of the momentum", metric, "L2 norm"],
  control_norm: ["Length of the control variate", metric, "L2 norm of the mean gradient that corrects each step"],
  correction_norm: ["Length of the correction", metric, "L2 norm of what the regularization moves"],
  population: ["Participants in the mean", count, "all that could be selected, whether they trained or not"],
  steps_mean: ["Steps of each", steps, "the mean"],
  steps_min: ["Fewest steps", steps],
  steps_max: ["Most steps", steps],
  effective_steps: ["Effective steps", steps, "so many count of each participant, however many it took"],
  loss_mean: ["Loss before training", metric, "the mean, on participants' own data"],
  loss_min: ["Least of them", metric],
  loss_max: ["Greatest of them", metric],
  clip_norm: ["Longest norm", metric, "longer updates were cut to it"],
  next_clip_norm: ["Longest norm, next round", metric],
  clipped_share: ["Updates that were cut", percent],
  largest_norm: ["Longest update", metric, "its L2 norm, before it was cut"],
  cut: ["Values left out", updates, "of each weight"],
  selected: ["Chosen", updates],
  excluded: ["Left out", updates],
  score_ratio: ["How far those left out stand apart", (value) => `${metric(value)} times`, "as far as the farthest that was chosen; near 1 nobody stood out"],
  iterations: ["Passes over the updates", count],
  change: ["Last step's change", metric, "relative; it ends when that is small enough"],
  converged: ["Came to rest", (value) => (value ? "yes" : "no, the passes ran out")],
  objective: ["Distance from the updates", metric, "the mean, by samples"],
  staleness_mean: ["Behind, in the mean", versions],
  staleness_max: ["Behind, at most", versions],
};

/** What a round's diagnostics are in words: [label, value, what it means], in the order above. */
export function inWords(diagnostics) {
  const order = Object.keys(WORDS);
  const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return Object.entries(diagnostics)
    .filter(([, value]) => typeof value === "number")
    .sort(([a], [b]) => rank(a) - rank(b))
    .map(([name, value]) => {
      const [label, unit, about = ""] = WORDS[name] ?? [name.replaceAll("_", " "), metric];
      return [label, unit(value), about];
    });
}

function render({ model, el }) {
  const facts = h("dl", { class: "fs-making-facts" });
  const shares = h("div", { class: "fs-making-shares" });
  const carried = h("div", { class: "fs-making-carried" });
  const empty = h("p", { class: "fs-nobody" });
  const root = h("div", { class: "fs-making" }, facts, shares, carried, empty);
  let drawn = {};
  function draw() {
    const { round, run, assignments } = model.get("data") ?? {};
    if (!round || (drawn.round === round && drawn.assignments === assignments)) return;
    drawn = { round, assignments };
    const told = inWords(round.diagnostics ?? {});
    place(facts, told.map(([label, value, about]) => h("div", { title: about || null }, h("dt", {}, label), h("dd", {}, value, about ? h("span", { class: "fs-making-about" }, about) : null))));
    place(shares, sharesOf(round, assignments));
    place(carried, run.kind === "asynchronous" ? carriedOver(round, assignments) : []);
    say(empty, told.length || ENDED.includes(round.phase) ? "" : "Its numbers are here when the updates have been folded.");
  }
  el.append(root);
  draw();
  model.on("change:data", draw);
  return () => {
    model.off("change:data", draw);
    root.remove();
  };
}

// --- Whose updates counted for how much -----------------------------------------------------------

function sharesOf({ diagnostics }, assignments) {
  const shares = diagnostics?.shares;
  if (!shares) return [];
  const names = new Map(assignments.map((one) => [String(one.participant.id), one.participant.name]));
  const found = Object.entries(shares).sort(([, a], [, b]) => b - a);
  const most = Math.max(...found.map(([, share]) => share), 1e-12);
  const rows = found.map(([key, share]) => {
    const bar = svg("svg", { class: "fs-share", "aria-hidden": "true", width: "100%", height: 8 },
      svg("rect", { class: "fs-share-ground", width: "100%", height: 8, rx: 4 }),
      svg("rect", { class: "fs-share-full", width: `${(100 * share) / most}%`, height: 8, rx: 4 }));
    return h("li", { "data-out": share === 0 }, h("span", {}, names.get(key) ?? `participant ${key}`), bar, h("span", {}, share ? percent(share) : "left out"));
  });
  return [h("h3", {}, "Whose updates counted for how much"), h("ul", {}, ...rows)];
}

// --- Who was carried over -------------------------------------------------------------------------

const ROW = 22;
const LABEL = 110;
const MOST = 30;

function carriedOver(round, assignments) {
  const older = assignments.filter((one) => one.invited_in < round.number);
  const here = assignments.length - older.length;
  const told = older.length
    ? `${count(here)} of ${count(assignments.length)} ${plural(here, "was", "were")} invited in this round; ${count(older.length)} began in an earlier one and ${plural(older.length, "goes", "go")} on in it.`
    : "Everybody in it was invited in this round.";
  const parts = [h("h3", {}, "Who began when"), h("p", {}, told)];
  if (older.length) parts.push(picture(round, [...older].sort((a, b) => a.invited_in - b.invited_in || a.id - b.id).slice(0, MOST)));
  if (older.length > MOST) parts.push(h("p", { class: "fs-making-about" }, `The ${MOST} longest are shown.`));
  return parts;
}

// A line for each: from the round in which it was invited to this one.
function picture({ number, code }, rows) {
  const first = Math.min(...rows.map((one) => one.invited_in));
  const width = 640;
  const x = (of) => LABEL + 12 + ((width - LABEL - 60) * (of - first)) / (number - first);
  const height = ROW * rows.length + 24;
  const steps = Math.max(1, Math.ceil((number - first) / 8));
  const grid = [];
  for (let of = number; of >= first; of -= steps) {
    grid.push(svg("line", { x1: x(of), x2: x(of), y1: 18, y2: height }), svg("text", { x: x(of), y: 12, "text-anchor": "middle" }, `round ${of}`));
  }
  const lines = rows.map((one, index) => {
    const y = 24 + ROW * (index + 0.5);
    const behind = one.staleness || number - one.invited_in;
    const found = outcome(one, code);
    return svg("g", { "data-state": found },
      svg("text", { class: "fs-carried-name", x: 0, y: y + 4 }, one.participant.name.slice(0, 15)),
      svg("line", { class: "fs-carried-line", x1: x(one.invited_in), x2: x(number), y1: y, y2: y }),
      svg("circle", { class: "fs-carried-from", cx: x(one.invited_in), cy: y, r: 4 }),
      svg("circle", { class: "fs-carried-to", cx: x(number), cy: y, r: 5 }),
      svg("title", {}, `${one.participant.name}: from version ${one.base}, invited in round ${one.invited_in}, ${behind} ${plural(behind, "round", "rounds")} ago; ${named(found)}`));
  });
  const words = rows.map((one) => `${one.participant.name} since round ${one.invited_in}, from version ${one.base}`).join("; ");
  return h("div", { class: "fs-carried", role: "group", tabindex: "0", "aria-label": "Since which round who is at it" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": words }, svg("g", { class: "fs-carried-grid" }, ...grid), ...lines));
}

export default { render };
