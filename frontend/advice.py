"""What to do about rounds that failed: by their code, a sentence for who runs the federation."""

_BY_CODE = {
    "not_enough_participants": "Look whether the participants are there and enrolled for this "
    "model, let more enrol, or give them more time to check in.",
    "quorum_not_met": "Look in the round why updates are missing: participants that fail or are "
    "late need more time, smaller batches or fewer epochs; or lower the quorum.",
    "buffer_not_filled": "Look in the round why updates are missing. Let more train at a time, "
    "give them more time, or lower the quorum.",
    "gate": "The new version was worse than the gate allows, and the old one is still served. "
    "Look at the worst participants, lower the learning rate, or widen the gate.",
    "aggregation_failed": "The updates could not be folded. Look at their norms in the round, and "
    "lower the learning rate if they are large.",
    "evaluation_failed": "The new version gives numbers that are not finite. Lower the learning "
    "rate, or look for a participant whose data are damaged.",
    "base_replaced": "Somebody published or rolled back a version while the round ran. Nothing "
    "has to be done: the next round starts from what is served now.",
    "version_rejected": "Somebody rejected the version before it was published. Nothing has to be "
    "done: the next round starts from what is served now.",
    "aggregating_timed_out": "No worker came to an end. See that the workers run and have room on "
    "their disk.",
    "evaluating_timed_out": "No worker that evaluates came to an end. See that one with Keras "
    "runs.",
    "aggregating_failed": "Workers were lost while they folded. See their logs, and whether they "
    "have memory enough.",
    "evaluating_failed": "Workers were lost while they evaluated. See their logs, and whether "
    "they have memory enough.",
    "cancelled": "",
}


def by_code() -> dict[str, str]:
    """What to do, by the code of what went wrong; for pages that hear of it while they are open."""
    return dict(_BY_CODE)


def for_round(code: str) -> str:
    """What to do about a round that ended with this code; empty if nothing is known of it."""
    return _BY_CODE.get(code, "")
