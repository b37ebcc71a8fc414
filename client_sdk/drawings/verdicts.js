// What became of an assignment, as people are told: its state, or "void" where the round or the run
// ended before it was needed. That is nobody's fault, and says nothing of the participant.
//
// `rounds/attendance.py` and `client_sdk/receipts.py` say the same of it; a test holds them to it.

export const VOID = "void";
const CODES = new Set(["round_cancelled", "run_completed", "run_paused", "run_stopped"]);
const TOO_FEW = "quorum_not_met"; // of a round: who was still training then is late all the same

/** The outcome of an assignment; `roundCode` says why its round failed, where that is known. */
export function outcome({ state, code }, roundCode = TOO_FEW) {
  if (state !== "late" && state !== "rejected") return state;
  const spared = state === "rejected" || (roundCode || TOO_FEW) !== TOO_FEW;
  return CODES.has(code) || (code === "round_failed" && spared) ? VOID : state;
}

/** What people call an outcome. */
export const named = (found) => (found === VOID ? "not used" : found);

// Remembered by the list: pictures ask again and again.
const counted = new WeakMap();

/** How many assignments of a round have which outcome, those with none left out. */
export function outcomes({ counts, assignments, round }) {
  const known = counted.get(assignments);
  if (known?.counts === counts && known.code === round.code) return known.found;
  const found = Object.fromEntries(Object.entries(counts).filter(([, number]) => number));
  for (const one of assignments) {
    if (outcome(one, round.code) !== VOID) continue;
    found[VOID] = (found[VOID] ?? 0) + 1;
    found[one.state] -= 1;
    if (!found[one.state]) delete found[one.state];
  }
  counted.set(assignments, { counts, code: round.code, found });
  return found;
}
