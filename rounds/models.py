"""The rows of a federation: participants, runs, rounds, assignments, updates.

Constraints live here, workflow in `lifecycle.py`.
"""

import uuid

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class JoinCode(models.Model):
    """What an admin gives out so that a participant can enrol; only its digest is kept."""

    label = models.CharField(max_length=100, blank=True, help_text="for whom it is")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    model = models.ForeignKey(
        "models_app.Model",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        help_text="the one model that its participants train; empty: any",
    )
    max_uses = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    uses = models.PositiveIntegerField(default=0, editable=False)
    expires_at = models.DateTimeField()
    withdrawn_at = models.DateTimeField(null=True, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, editable=False
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(uses__lte=models.F("max_uses")), name="join_code_uses_within_limit"
            ),
        )

    def __str__(self) -> str:
        return self.label or f"join code {self.pk}"


class Participant(models.Model):
    """A device or site that trains: known by its Ed25519 public key."""

    class State(models.TextChoices):
        ACTIVE = "active"
        SUSPENDED = "suspended"
        REVOKED = "revoked"

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=100)
    public_key = models.CharField(max_length=43, unique=True, help_text="Ed25519, base64url")
    state = models.CharField(max_length=9, choices=State, default=State.ACTIVE)
    model = models.ForeignKey(
        "models_app.Model", on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    join_code = models.ForeignKey(
        JoinCode, on_delete=models.SET_NULL, null=True, related_name="participants"
    )
    sdk = models.JSONField(default=dict, help_text="versions, as last told by the SDK")
    capabilities = models.CharField(
        max_length=1400, blank=True, default="", help_text="what its SDK can do, to be searched"
    )
    enrolled_at = models.DateTimeField(db_default=Now())
    last_seen_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name


class ParticipantToken(models.Model):
    """A short-lived token that a signed challenge was exchanged for; only its digest is kept."""

    participant = models.ForeignKey(Participant, on_delete=models.CASCADE, related_name="tokens")
    digest = models.CharField(max_length=64, unique=True)
    challenge = models.CharField(max_length=64, unique=True, help_text="each is used only once")
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"token of {self.participant_id}"


class Run(models.Model):
    """A federated training: one model, one strategy, and the rules of its rounds."""

    class State(models.TextChoices):
        DRAFT = "draft"
        RUNNING = "running"
        PAUSED = "paused"
        COMPLETED = "completed"
        STOPPED = "stopped"
        FAILED = "failed"

    class Kind(models.TextChoices):
        SYNCHRONOUS = "synchronous", "in rounds: each waits for its cohort"
        ASYNCHRONOUS = "asynchronous", "buffered: nobody waits for the slowest"

    class Selection(models.TextChoices):
        ALL = "all", "everyone who checks in"
        FIRST_COME = "first_come", "first come, first served"
        RANDOM = "random", "a random fraction of those who check in"

    model = models.ForeignKey("models_app.Model", on_delete=models.PROTECT, related_name="runs")
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=12, choices=Kind, default=Kind.SYNCHRONOUS)
    strategy = models.CharField(max_length=40, default="fedavg")
    strategy_options = models.JSONField(default=dict, blank=True)
    hyperparameters = models.JSONField(default=dict, blank=True)
    seed = models.BigIntegerField(default=0)

    rounds_planned = models.PositiveIntegerField(default=10, validators=[MinValueValidator(1)])
    until_metric = models.CharField(max_length=40, blank=True, help_text="stop early by this")
    until_value = models.FloatField(null=True, blank=True, help_text="once this is reached")

    best_metric = models.CharField(
        max_length=40, blank=True, help_text="the metric by which versions of the run are compared"
    )
    patience = models.PositiveIntegerField(
        null=True, blank=True, help_text="stop after this many rounds without a better version"
    )
    patience_delta = models.FloatField(
        default=0.0, help_text="how much better a version has to be to count as better"
    )
    keep_best = models.BooleanField(
        default=False, help_text="at the end serve the best version of the run, not the last"
    )

    concurrency = models.PositiveIntegerField(
        null=True, blank=True, help_text="asynchronous: how many train at a time"
    )
    buffer_size = models.PositiveIntegerField(
        null=True, blank=True, help_text="asynchronous: updates that make a version"
    )

    selection = models.CharField(max_length=10, choices=Selection, default=Selection.ALL)
    fraction = models.FloatField(default=1.0)
    over_selection = models.FloatField(
        default=1.3, help_text="invite this many times the goal, for some will not finish"
    )
    cohort_goal = models.PositiveIntegerField(
        null=True, blank=True, help_text="how many to wait for; empty: everyone enrolled"
    )
    cohort_min = models.PositiveIntegerField(default=2, help_text="fewest to train with")
    selecting_seconds = models.PositiveIntegerField(default=300)

    target = models.PositiveIntegerField(
        null=True, blank=True, help_text="updates that end the training; empty: the goal"
    )
    quorum = models.PositiveIntegerField(
        default=2, help_text="fewest accepted updates that a round may publish with"
    )
    training_seconds = models.PositiveIntegerField(default=3600)

    quarantine_factor = models.FloatField(
        default=5.0,
        help_text="set aside updates whose norm is above this multiple of the median; 0: never",
    )
    gate_metric = models.CharField(max_length=40, blank=True, default="accuracy")
    gate_tolerance = models.FloatField(
        default=0.2, help_text="how much worse than its base a version may be and still be served"
    )
    evaluators = models.PositiveIntegerField(
        default=0,
        help_text="participants that evaluate each candidate on their own held-out data; 0: none",
    )
    evaluators_min = models.PositiveIntegerField(
        default=3,
        validators=[MinValueValidator(2)],
        help_text="smallest cohort: of fewer evaluations nothing is shown or used",
    )
    evaluation_seconds = models.PositiveIntegerField(default=300)
    retries = models.PositiveIntegerField(default=3, help_text="failed rounds in a row, repeated")
    retry_seconds = models.PositiveIntegerField(default=5, help_text="doubled at each failure")

    state = models.CharField(max_length=9, choices=State, default=State.DRAFT)
    reason = models.TextField(blank=True)
    failures = models.PositiveIntegerField(default=0, help_text="failed rounds in a row")
    next_round_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("model",),
                condition=Q(state__in=("running", "paused")),
                name="one_active_run_per_model",
            ),
        )

    def __str__(self) -> str:
        return self.name or f"run {self.pk}"

    @property
    def fewest(self) -> int:
        """The fewest to train with: fewer than the quorum would train for nothing."""
        return max(self.cohort_min, self.quorum)


class Round(models.Model):
    """One pass of a run: select, train, collect, aggregate, evaluate, publish."""

    class Phase(models.TextChoices):
        SELECTING = "selecting"
        TRAINING = "training"
        AGGREGATING = "aggregating"
        EVALUATING = "evaluating"
        PUBLISHED = "published"
        FAILED = "failed"
        CANCELLED = "cancelled"

    OPEN = (Phase.SELECTING, Phase.TRAINING)  # not closed yet: updates of its cohort are taken
    ACTIVE = (*OPEN, Phase.AGGREGATING, Phase.EVALUATING)

    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="rounds")
    number = models.PositiveIntegerField()
    phase = models.CharField(max_length=11, choices=Phase, default=Phase.SELECTING)
    code = models.CharField(max_length=40, blank=True, help_text="why it failed, for programs")
    reason = models.TextField(blank=True, help_text="why it ended so, for people")
    base = models.ForeignKey(
        "models_app.ModelVersion", on_delete=models.PROTECT, related_name="rounds_from"
    )
    version = models.OneToOneField(
        "models_app.ModelVersion", on_delete=models.PROTECT, null=True, related_name="made_by"
    )
    seed = models.BigIntegerField(default=0)
    target = models.PositiveIntegerField(null=True, help_text="updates that end the training")
    quorum = models.PositiveIntegerField()
    deadline = models.DateTimeField(null=True, help_text="when the phase ends, one way or another")
    lease = models.CharField(max_length=32, blank=True, help_text="the worker that holds it")
    lease_expires_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0, help_text="leases taken in this phase")
    diagnostics = models.JSONField(default=dict)
    population = models.PositiveIntegerField(
        default=0, help_text="participants that could be selected, and no fewer than before"
    )
    opened_at = models.DateTimeField(db_default=Now())
    training_at = models.DateTimeField(null=True)
    aggregating_at = models.DateTimeField(null=True)
    evaluating_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("run_id", "number")
        constraints = (
            models.UniqueConstraint(fields=("run", "number"), name="one_round_of_a_number"),
            models.UniqueConstraint(
                fields=("run",),
                condition=Q(phase__in=("selecting", "training", "aggregating", "evaluating")),
                name="one_active_round_per_run",
            ),
        )
        indexes = (models.Index(fields=("phase",), name="round_by_phase"),)

    def __str__(self) -> str:
        return f"{self.run} round {self.number}"


class CheckIn(models.Model):
    """A participant that is there while a round selects."""

    round = models.ForeignKey(Round, on_delete=models.CASCADE, related_name="check_ins")
    participant = models.ForeignKey(Participant, on_delete=models.CASCADE, related_name="+")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("round", "participant"), name="one_check_in_per_round"),
        )

    def __str__(self) -> str:
        return f"{self.participant_id} in round {self.round_id}"


class Assignment(models.Model):
    """One participant's place in one round."""

    class State(models.TextChoices):
        INVITED = "invited"
        TRAINING = "training"
        UPLOADED = "uploaded"
        ACCEPTED = "accepted"
        REJECTED = "rejected"
        QUARANTINED = "quarantined"
        FAILED = "failed"
        LATE = "late"
        LOST = "lost"
        WITHDRAWN = "withdrawn"

    OPEN = (State.INVITED, State.TRAINING)
    UNJUDGED = (*OPEN, State.UPLOADED)

    class Activity(models.TextChoices):
        DOWNLOADING = "downloading"
        TRAINING = "training"
        UPLOADING = "uploading"

    round = models.ForeignKey(Round, on_delete=models.PROTECT, related_name="assignments")
    participant = models.ForeignKey(
        Participant, on_delete=models.PROTECT, related_name="assignments"
    )
    base = models.ForeignKey(
        "models_app.ModelVersion",
        on_delete=models.PROTECT,
        related_name="+",
        help_text="the version that it trains from",
    )
    invited_in = models.ForeignKey(
        Round,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="an asynchronous round hands those who still train on to the next one",
    )
    staleness = models.PositiveIntegerField(
        default=0, help_text="versions that its run published since its base, when it was judged"
    )
    state = models.CharField(max_length=11, choices=State, default=State.INVITED)
    code = models.CharField(max_length=64, blank=True, help_text="why it ended so, for programs")
    reason = models.TextField(blank=True, help_text="why it ended so, for people")
    detail = models.TextField(blank=True, help_text="what the participant told of it")
    refusals = models.PositiveIntegerField(default=0, help_text="uploads that were not valid")
    seed = models.BigIntegerField(default=0)
    activity = models.CharField(max_length=11, choices=Activity, blank=True)
    activities = models.JSONField(default=dict, help_text="when each activity was first reported")
    fraction = models.FloatField(default=0.0, validators=[MaxValueValidator(1.0)])
    epoch = models.PositiveIntegerField(null=True)
    epochs = models.PositiveIntegerField(null=True)
    metrics = models.JSONField(default=dict)
    invited_at = models.DateTimeField(db_default=Now())
    training_at = models.DateTimeField(null=True)
    uploaded_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    last_seen_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("round", "participant"), name="one_assignment_per_round"
            ),
        )
        indexes = (models.Index(fields=("participant", "state"), name="assignment_by_participant"),)

    def __str__(self) -> str:
        return f"{self.participant} in {self.round}"


class Update(models.Model):
    """What an assignment uploaded: a delta to the base version's federated weights."""

    assignment = models.OneToOneField(Assignment, on_delete=models.PROTECT, primary_key=True)
    digest = models.CharField(max_length=64, db_index=True)
    bytes = models.PositiveBigIntegerField()
    samples = models.PositiveBigIntegerField()
    norm = models.FloatField(help_text="L2 norm over all federated weights")
    metrics = models.JSONField(default=dict)
    reports = models.JSONField(default=dict, help_text="what the run's strategy asked for")
    manifest = models.TextField(help_text="exactly as the participant signed it")
    signature = models.CharField(max_length=86)
    received_at = models.DateTimeField(db_default=Now())
    deleted_at = models.DateTimeField(null=True, help_text="when its bytes were tidied away")

    def __str__(self) -> str:
        return f"update of {self.assignment_id}"


class FederatedEvaluation(models.Model):
    """A version, measured by participants on data that they keep for that."""

    class State(models.TextChoices):
        OPEN = "open"
        DONE = "done"
        FAILED = "failed"
        CANCELLED = "cancelled"

    version = models.ForeignKey(
        "models_app.ModelVersion", on_delete=models.PROTECT, related_name="federated_evaluations"
    )
    round = models.OneToOneField(
        Round,
        on_delete=models.PROTECT,
        null=True,
        related_name="federated_evaluation",
        help_text="whose candidate it is; empty: an operator asked for it",
    )
    state = models.CharField(max_length=9, choices=State, default=State.OPEN)
    reason = models.TextField(blank=True)
    goal = models.PositiveIntegerField(help_text="reports that end it")
    minimum = models.PositiveIntegerField(help_text="fewest reports of which anything is shown")
    deadline = models.DateTimeField()
    summary = models.JSONField(default=dict, help_text="empty until enough reports are here")
    created_by = models.CharField(max_length=150, blank=True)
    opened_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"evaluation of {self.version}"


class EvaluationReport(models.Model):
    """One participant's place in a federated evaluation, and what it measured."""

    evaluation = models.ForeignKey(
        FederatedEvaluation, on_delete=models.CASCADE, related_name="reports"
    )
    participant = models.ForeignKey(
        Participant, on_delete=models.PROTECT, related_name="evaluation_reports"
    )
    samples = models.PositiveBigIntegerField(null=True, help_text="null until it has reported")
    metrics = models.JSONField(default=dict)
    classes = models.JSONField(
        null=True, help_text="for each class how many examples, and how many were recognised"
    )
    code = models.CharField(max_length=64, blank=True, help_text="why there is no report")
    reason = models.TextField(blank=True)
    asked_at = models.DateTimeField(db_default=Now())
    reported_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("evaluation", "participant"), name="one_report_per_evaluation"
            ),
        )

    def __str__(self) -> str:
        return f"{self.participant} in {self.evaluation}"
