// A round in a notebook: the dashboard's cockpit, fed by the kernel.
//
// model.document   the state of the round (round_state.js), as it was read last; null: not yet
// model.events     what happened since, in order; what is known already changes nothing
// model.offset     the server's time less the kernel's, in milliseconds, at least
// model.links      patterns of addresses on the dashboard
// model.reports    { id: { detail } or { error } }: of the assignments that were asked for
import { Cockpit } from "../drawings/cockpit.js";
import { h, say, set } from "../drawings/dom.js";
import { attend, frame, section, shown } from "./host.js";

function render({ model, el }) {
  const around = frame(el);
  const stops = [attend(model, around)];
  let cockpit = null;

  function begin(state) {
    const columns = h("div", { class: "fs-live-columns" });
    const parts = {
      notices: h("div", { class: "fs-live-notices" }),
      said: h("p", { class: "hidden-but-read", role: "status" }),
      phases: h("div", { "data-part": "phases" }),
      assignments: section(columns, "assignments", "Participants"),
      evaluation: section(columns, "evaluation", "On participants' own data"),
      making: section(columns, "making", "How its version is made"),
      timeline: section(columns, "timeline", "Timeline"),
      feed: section(columns, "feed", "What happened"),
    };
    around.root.append(parts.said, parts.notices, parts.phases, columns);
    cockpit = new Cockpit({
      state, parts,
      links: model.get("links"),
      offset: model.get("offset"),
      onAsk: (id) => model.send({ type: "report", id }),
      onDraw: (drawn) => head(drawn, around, model.get("links")),
    });
  }

  function follow() {
    const document = model.get("document");
    if (!document) return;
    if (cockpit) cockpit.catchUp(document);
    else begin(document);
    cockpit.observe(model.get("offset"));
    cockpit.take(model.get("events") ?? []);
  }

  function answer() {
    for (const [id, report] of Object.entries(model.get("reports") ?? {})) cockpit?.answer(Number(id), report);
  }

  follow();
  answer();
  const heard = { "change:document": follow, "change:events": follow, "change:reports": answer };
  for (const [event, listener] of Object.entries(heard)) model.on(event, listener);
  return () => {
    for (const [event, listener] of Object.entries(heard)) model.off(event, listener);
    for (const stop of stops) stop();
    cockpit?.close();
    around.root.remove();
  };
}

function head({ round, run, model }, { title, chip, lead, link }, links) {
  say(title, `Round ${round.number} of ${run.name}`);
  shown(chip, round.phase);
  say(lead, `of ${run.rounds_planned}, training ${model.slug} from version ${round.base.number} with ${run.strategy}.`);
  set(link, { href: links.self, hidden: null });
}

export default { render };
