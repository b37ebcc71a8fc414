// When something that goes on will probably end: from how far it is, and how long that took.

const LEAST = 0.02; // of a whole, before it says anything
const AT_WORK = new Set(["invited", "training"]);

/** How many updates are here, and how many participants are still at it. */
export function standing({ assignments, counts }) {
  const updates = assignments.reduce((sum, one) => sum + (one.update ? 1 : 0), 0);
  return { updates, working: counts.invited + counts.training };
}

/** When an assignment will probably have uploaded, in milliseconds; null if nothing says so. */
export function assignmentEnd(one, state, now) {
  if (!AT_WORK.has(one.state) || !one.activity || one.activity === "downloading") return null;
  const began = Date.parse(one.activities[one.activity] ?? one.training_at);
  const seen = Date.parse(one.last_seen_at);
  if (one.fraction < LEAST || !(seen >= began)) return null;
  const end = seen + ((seen - began) * (1 - one.fraction)) / one.fraction;
  const uploading = one.activity === "training" ? usualUpload(state) : 0;
  return Math.max(end, now) + uploading;
}

/** When a round that trains will probably close: { at, by: "target" | "deadline" }, or null. */
export function roundEnd(state, now) {
  const { round, assignments } = state;
  if (round.phase !== "training") return null;
  const deadline = round.deadline ? Date.parse(round.deadline) : Infinity;
  const ends = assignments.map((one) => assignmentEnd(one, state, now)).filter((end) => end !== null);
  const { updates, working } = standing(state);
  const missing = Math.min((round.target ?? 1) - updates, working);
  if (missing <= 0 || ends.length < missing) return null;
  const at = ends.sort((a, b) => a - b)[missing - 1];
  return at < deadline ? { at, by: "target" } : { at: deadline, by: "deadline" };
}

// Remembered by the list: it is asked for each row.
const uploads = new WeakMap();

function usualUpload({ assignments }) {
  if (!uploads.has(assignments)) {
    const took = assignments
      .filter((one) => one.uploaded_at && one.activities.uploading)
      .map((one) => Date.parse(one.uploaded_at) - Date.parse(one.activities.uploading))
      .sort((a, b) => a - b);
    uploads.set(assignments, took.length ? took[took.length >> 1] : 0);
  }
  return uploads.get(assignments);
}
