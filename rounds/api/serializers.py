"""What operators read and write, as JSON."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from journal.events import KINDS, SUBJECTS
from models_app.models import Model
from rounds import capabilities, rules
from rounds.models import (
    Assignment,
    FederatedEvaluation,
    JoinCode,
    Participant,
    Round,
    Run,
    Update,
)

GREATEST_ID = 2**63 - 1


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields that it does not know: a misspelt one must not be silently ignored."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := sorted(data.keys() - self.fields.keys())):
            known = sorted(self.fields)
            raise serializers.ValidationError(
                {unknown[0]: f"Expected one of {known}. Received: {unknown[0]}"}
            )
        return super().to_internal_value(data)


class ByNameField(serializers.DictField):
    """Values by name; names that no database takes (NUL, half a character) are refused."""

    MOST, LONGEST = 32, 64

    def to_internal_value(self, data: Any) -> Any:
        named = isinstance(data, dict) and all(
            0 < len(name) <= self.LONGEST and name.isprintable() for name in data
        )
        if isinstance(data, dict) and not (named and len(data) <= self.MOST):
            raise serializers.ValidationError(
                f"Expected at most {self.MOST} names of 1 to {self.LONGEST} printable characters. "
                f"Received: {len(data)} names"
            )
        return super().to_internal_value(data)


@extend_schema_field(
    {
        "type": "object",
        "maxProperties": ByNameField.MOST,
        "properties": {
            "capabilities": {
                "type": "array",
                "maxItems": capabilities.MOST,
                "items": {"type": "string", "pattern": f"^{capabilities.PATTERN}$"},
            }
        },
        "additionalProperties": {"type": "string", "maxLength": 100},
    }
)
class SdkField(ByNameField):
    """What an SDK tells of itself: versions by name, and its capabilities as a list of names."""

    child = serializers.CharField(max_length=100)

    def to_internal_value(self, data: Any) -> Any:
        told = data.get("capabilities") if isinstance(data, dict) else None
        if told is None:
            return super().to_internal_value(data)
        if not capabilities.are_names(told):
            raise serializers.ValidationError(
                f"Expected capabilities as a list of at most {capabilities.MOST} names. "
                f"Received: {told!r:.60}"
            )
        versions = {name: value for name, value in data.items() if name != "capabilities"}
        return super().to_internal_value(versions) | {"capabilities": told}


class ReasonSerializer(StrictSerializer):
    """Why, in a sentence for people; it goes into the journal."""

    reason = serializers.CharField(max_length=1000, required=False, allow_blank=True, default="")


def _slug_of_model(*, or_any: bool = True) -> serializers.SlugRelatedField[Model]:
    return serializers.SlugRelatedField(
        slug_field="slug", read_only=True, allow_null=or_any, help_text="null: any" * or_any
    )


def _name_of_user() -> serializers.SlugRelatedField[Any]:
    return serializers.SlugRelatedField(
        slug_field="username", read_only=True, allow_null=True, help_text="null: the server itself"
    )


# --- Runs -------------------------------------------------------------------------------------


class HyperparametersSerializer(StrictSerializer):
    """How participants train; `rounds.rules` knows the defaults and the ranges."""

    epochs = serializers.IntegerField(required=False)
    batch_size = serializers.IntegerField(required=False)
    learning_rate = serializers.FloatField(required=False)
    optimizer = serializers.ChoiceField(choices=rules.OPTIMIZERS, required=False)
    momentum = serializers.FloatField(required=False)
    max_steps = serializers.IntegerField(
        required=False, allow_null=True, help_text="steps of one assignment; null: no limit"
    )


class RunSerializer(serializers.ModelSerializer[Run]):
    """A run with its rules and where it stands."""

    model = _slug_of_model(or_any=False)
    created_by = _name_of_user()
    strategy_options = serializers.DictField(read_only=True)
    hyperparameters = HyperparametersSerializer(read_only=True)
    published = serializers.IntegerField(read_only=True, help_text="rounds that were published")

    class Meta:
        model = Run
        fields = (
            "id",
            "model",
            *rules.FIELDS,
            "state",
            "reason",
            "failures",
            "published",
            "next_round_at",
            "created_by",
            "created_at",
            "started_at",
            "ended_at",
        )
        read_only_fields = fields


class NewRunSerializer(StrictSerializer, serializers.ModelSerializer[Run]):
    """A run to be created: its model, and the rules that differ from their defaults."""

    model = serializers.SlugRelatedField(slug_field="slug", queryset=Model.objects.all())
    strategy_options = serializers.DictField(required=False)
    hyperparameters = HyperparametersSerializer(required=False)

    class Meta:
        model = Run
        fields = ("model", *rules.FIELDS)
        extra_kwargs: ClassVar = {"name": {"required": False, "allow_blank": True}}
        validators = ()


class RoundLineSerializer(serializers.Serializer[Any]):
    """What became of one round."""

    number = serializers.IntegerField()
    state = serializers.ChoiceField(choices=Round.Phase.choices)
    version = serializers.IntegerField(allow_null=True)
    accepted = serializers.IntegerField()
    rejected = serializers.IntegerField(
        help_text="or quarantined; without those that were not needed in the end"
    )
    samples = serializers.IntegerField()
    accuracy = serializers.FloatField(allow_null=True)
    loss = serializers.FloatField(allow_null=True)
    seconds = serializers.FloatField(allow_null=True)
    overhead_seconds = serializers.FloatField(
        allow_null=True, help_text="from the last update to the new version being offered"
    )


class WorstParticipantSerializer(serializers.Serializer[Any]):
    """Whose value is the worst."""

    uuid = serializers.UUIDField()
    name = serializers.CharField()


class SpreadSerializer(serializers.Serializer[Any]):
    """How far the participants of a round lie apart in one of their own metrics."""

    count = serializers.IntegerField(help_text="participants that sent it")
    mean = serializers.FloatField(help_text="weighted by samples")
    min = serializers.FloatField()
    q1 = serializers.FloatField(help_text="a quarter of the participants is at or below")
    median = serializers.FloatField()
    q3 = serializers.FloatField()
    max = serializers.FloatField()
    worst = serializers.FloatField(help_text="the greatest loss or error, else the least value")
    worst_participant = WorstParticipantSerializer()


class HeldOutSerializer(serializers.Serializer[Any]):
    """A version, and its metrics on the model's held-out set."""

    version = serializers.IntegerField(allow_null=True)
    accuracy = serializers.FloatField(allow_null=True)
    loss = serializers.FloatField(allow_null=True)
    metrics = serializers.DictField(child=serializers.FloatField())


class PhaseSecondsSerializer(serializers.Serializer[Any]):
    """How long each phase took; null where it was not reached or is not over."""

    selecting = serializers.FloatField(allow_null=True)
    training = serializers.FloatField(allow_null=True)
    aggregating = serializers.FloatField(allow_null=True)
    evaluating = serializers.FloatField(allow_null=True)
    total = serializers.FloatField(allow_null=True)


class StalenessSerializer(serializers.Serializer[Any]):
    """How many versions the accepted updates of a round were behind."""

    mean = serializers.FloatField()
    max = serializers.IntegerField()


class RoundHistorySerializer(HeldOutSerializer):
    """One round in numbers."""

    id = serializers.IntegerField()
    number = serializers.IntegerField()
    phase = serializers.ChoiceField(choices=Round.Phase.choices)
    code = serializers.CharField(help_text="why it failed, for programs")
    reason = serializers.CharField(help_text="why it ended so, for people")
    base = serializers.IntegerField(help_text="the version that it started from")
    participants = serializers.DictField(
        child=SpreadSerializer(), help_text="by metric, of the accepted updates"
    )
    staleness = StalenessSerializer(help_text="0 but in asynchronous runs")
    seconds = PhaseSecondsSerializer()
    counts = serializers.DictField(
        child=serializers.IntegerField(), help_text="assignments, in all (invited) and by state"
    )
    void = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="of these late and rejected, those that ended with their round or their run "
        "before they were needed",
    )
    samples = serializers.IntegerField(help_text="behind the accepted updates")
    bytes_received = serializers.IntegerField(help_text="of all uploaded updates")
    bytes_sent_estimate = serializers.IntegerField(
        help_text="the base version's weights, once for each participant that began"
    )
    opened_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class RunHistorySerializer(serializers.Serializer[Any]):
    """A run in numbers, round by round."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    model = serializers.CharField()
    strategy = serializers.CharField()
    state = serializers.ChoiceField(choices=Run.State.choices)
    rounds_planned = serializers.IntegerField()
    published = serializers.IntegerField(help_text="rounds that were published")
    start = HeldOutSerializer(allow_null=True, help_text="the version it started from")
    rounds = RoundHistorySerializer(many=True)


# --- Rounds and assignments -------------------------------------------------------------------


class RoundSerializer(serializers.ModelSerializer[Round]):
    """A round: its phase, its cohort, and what came of it."""

    model = serializers.CharField(source="run.model.slug", read_only=True)
    base = serializers.IntegerField(source="base.number", read_only=True)
    version = serializers.IntegerField(
        source="version.number", default=None, read_only=True, allow_null=True
    )
    metrics = serializers.DictField(
        source="version.metrics", default=dict, read_only=True, help_text="of the version"
    )
    cohort = serializers.SerializerMethodField(
        help_text="how many assignments there are, in all and in each state"
    )
    samples = serializers.IntegerField(
        read_only=True, allow_null=True, help_text="behind the accepted updates"
    )
    last_update_at = serializers.DateTimeField(read_only=True, allow_null=True)

    class Meta:
        model = Round
        fields = (
            "id",
            "run",
            "model",
            "number",
            "phase",
            "code",
            "reason",
            "base",
            "version",
            "metrics",
            "cohort",
            "target",
            "quorum",
            "samples",
            "diagnostics",
            "deadline",
            "attempts",
            "opened_at",
            "training_at",
            "aggregating_at",
            "evaluating_at",
            "last_update_at",
            "ended_at",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.DictField(child=serializers.IntegerField()))
    def get_cohort(self, round_: Any) -> dict[str, int]:
        # `invited` is an assignment's first state: all were, and who moved on still was.
        return {str(state): getattr(round_, f"{state}_count") for state in Assignment.State}


class UpdateSerializer(serializers.ModelSerializer[Update]):
    """What an assignment uploaded."""

    metrics = serializers.DictField(read_only=True)
    reports = serializers.DictField(
        child=serializers.FloatField(), read_only=True, help_text="what the strategy asked for"
    )

    class Meta:
        model = Update
        fields = (
            "digest",
            "bytes",
            "samples",
            "norm",
            "metrics",
            "reports",
            "received_at",
            "deleted_at",
        )
        read_only_fields = fields


class AssignmentSerializer(serializers.ModelSerializer[Assignment]):
    """A participant's place in a round."""

    participant = serializers.UUIDField(source="participant.uuid", read_only=True)
    name = serializers.CharField(source="participant.name", read_only=True)
    metrics = serializers.DictField(read_only=True, help_text="as last reported while training")
    activities = serializers.DictField(
        child=serializers.DateTimeField(),
        read_only=True,
        help_text="when each activity was first reported",
    )
    base = serializers.IntegerField(
        source="base.number", read_only=True, help_text="the version that it trains from"
    )
    update = UpdateSerializer(read_only=True, allow_null=True)  # type: ignore[assignment]

    class Meta:
        model = Assignment
        fields = (
            "id",
            "round",
            "invited_in",
            "base",
            "staleness",
            "participant",
            "name",
            "state",
            "code",
            "reason",
            "detail",
            "refusals",
            "activity",
            "activities",
            "fraction",
            "epoch",
            "epochs",
            "metrics",
            "update",
            "invited_at",
            "training_at",
            "uploaded_at",
            "ended_at",
            "last_seen_at",
        )
        read_only_fields = fields


# --- The state of a round ---------------------------------------------------------------------


class _PlainSerializer(serializers.Serializer[Any]):
    """Describes what is a plain document already."""

    def to_representation(self, instance: Any) -> Any:
        return instance


class ProgressSerializer(_PlainSerializer):
    """How far an assignment is, and when it began to do what."""

    activity = serializers.CharField(allow_blank=True)
    fraction = serializers.FloatField(help_text="of the activity that is done, 0 to 1")
    epoch = serializers.IntegerField(allow_null=True)
    epochs = serializers.IntegerField(allow_null=True)
    metrics = serializers.DictField(help_text="as last reported while training")
    activities = serializers.DictField(
        child=serializers.DateTimeField(), help_text="when each activity was first reported"
    )
    last_seen_at = serializers.DateTimeField(allow_null=True)


class StateVersionSerializer(_PlainSerializer):
    id = serializers.IntegerField()
    number = serializers.IntegerField()
    metrics = serializers.DictField()


class StateUpdateSerializer(_PlainSerializer):
    samples = serializers.IntegerField()
    bytes = serializers.IntegerField()
    norm = serializers.FloatField()
    metrics = serializers.DictField()


class StateParticipantSerializer(_PlainSerializer):
    id = serializers.IntegerField()
    uuid = serializers.UUIDField()
    name = serializers.CharField()


class StateAssignmentSerializer(ProgressSerializer):
    """An assignment of the document."""

    id = serializers.IntegerField()
    participant = StateParticipantSerializer()
    state = serializers.ChoiceField(choices=Assignment.State.choices)
    code = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)
    refusals = serializers.IntegerField(help_text="uploads that were not valid")
    base = serializers.IntegerField(help_text="number of the version that it trains from")
    invited_in = serializers.IntegerField(
        help_text="number of the round; asynchronous rounds hand on who still trains"
    )
    staleness = serializers.IntegerField(help_text="versions that it was behind when judged")
    update = StateUpdateSerializer(allow_null=True)  # type: ignore[assignment]
    invited_at = serializers.DateTimeField(allow_null=True)
    training_at = serializers.DateTimeField(allow_null=True)
    uploaded_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)


class StateNeighbourSerializer(_PlainSerializer):
    id = serializers.IntegerField()
    number = serializers.IntegerField()


class StateModelSerializer(_PlainSerializer):
    id = serializers.IntegerField()
    slug = serializers.CharField()


class StateRunSerializer(_PlainSerializer):
    id = serializers.IntegerField()
    name = serializers.CharField()
    state = serializers.ChoiceField(choices=Run.State.choices)
    reason = serializers.CharField(allow_blank=True)
    kind = serializers.ChoiceField(choices=Run.Kind.choices)
    strategy = serializers.CharField()
    strategy_options = serializers.DictField()
    concurrency = serializers.IntegerField(
        allow_null=True, help_text="how many train at a time, if asynchronous"
    )
    selection = serializers.ChoiceField(choices=Run.Selection.choices)
    rounds_planned = serializers.IntegerField()
    quarantine_factor = serializers.FloatField()
    fewest = serializers.IntegerField(help_text="to train with")
    failures = serializers.IntegerField()
    retries = serializers.IntegerField()
    evaluators = serializers.IntegerField(help_text="participants that evaluate; 0: none")
    next_round_at = serializers.DateTimeField(allow_null=True)
    previous = StateNeighbourSerializer(allow_null=True)
    next = StateNeighbourSerializer(allow_null=True)


class StateRoundSerializer(_PlainSerializer):
    id = serializers.IntegerField()
    number = serializers.IntegerField()
    phase = serializers.ChoiceField(choices=Round.Phase.choices)
    code = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)
    base = StateVersionSerializer(help_text="with its metrics once the version has been measured")
    version = StateVersionSerializer(allow_null=True)
    quorum = serializers.IntegerField()
    target = serializers.IntegerField(allow_null=True)
    deadline = serializers.DateTimeField(allow_null=True)
    diagnostics = serializers.DictField()
    opened_at = serializers.DateTimeField()
    training_at = serializers.DateTimeField(allow_null=True)
    aggregating_at = serializers.DateTimeField(allow_null=True)
    evaluating_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)


class StateSelectingSerializer(_PlainSerializer):
    checked_in = serializers.IntegerField()
    wanted = serializers.IntegerField()


class StateWorkerSerializer(_PlainSerializer):
    attempts = serializers.IntegerField()
    expires_at = serializers.DateTimeField(allow_null=True, help_text="null: no worker holds it")


class StateEvaluationSerializer(_PlainSerializer):
    """How far participants are who evaluate the round's candidate on data of their own."""

    id = serializers.IntegerField()
    state = serializers.ChoiceField(choices=FederatedEvaluation.State.choices)
    reason = serializers.CharField(allow_blank=True)
    goal = serializers.IntegerField(help_text="reports that end it")
    minimum = serializers.IntegerField(help_text="fewest of which anything is shown")
    reports = serializers.IntegerField()
    deadline = serializers.DateTimeField()
    summary = serializers.DictField(allow_null=True, help_text="null until there are enough")
    opened_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class StateNormsSerializer(_PlainSerializer):
    median = serializers.FloatField(allow_null=True)
    limit = serializers.FloatField(allow_null=True, help_text="null: none")


class RoundStateSerializer(_PlainSerializer):
    """A round as one document, as `rounds.round_state` reads it."""

    cursor = serializers.IntegerField(help_text="the greatest event id that it surely contains")
    now = serializers.DateTimeField(help_text="the server's time")
    model = StateModelSerializer()
    run = StateRunSerializer()
    round = StateRoundSerializer()
    selecting = StateSelectingSerializer(allow_null=True)
    worker = StateWorkerSerializer()
    assignments = StateAssignmentSerializer(many=True)
    counts = serializers.DictField(child=serializers.IntegerField())
    norms = StateNormsSerializer()
    evaluation = StateEvaluationSerializer(allow_null=True)

    def get_fields(self) -> dict[str, Any]:
        return super().get_fields() | {"events": EventSerializer(many=True)}


# --- Participants and join codes --------------------------------------------------------------


class ParticipantSerializer(serializers.ModelSerializer[Participant]):
    """A participant, and how often it took part."""

    model = _slug_of_model()
    sdk = serializers.DictField(read_only=True, help_text="versions, as last told by the SDK")
    invited = serializers.IntegerField(source="invited_count", read_only=True)
    accepted = serializers.IntegerField(source="accepted_count", read_only=True)

    class Meta:
        model = Participant
        fields = (
            "uuid",
            "id",
            "name",
            "state",
            "model",
            "public_key",
            "join_code",
            "sdk",
            "invited",
            "accepted",
            "enrolled_at",
            "last_seen_at",
        )
        read_only_fields = fields


class JoinCodeSerializer(serializers.ModelSerializer[JoinCode]):
    """A join code, without its secret."""

    model = _slug_of_model()
    created_by = _name_of_user()

    class Meta:
        model = JoinCode
        fields = (
            "id",
            "label",
            "model",
            "max_uses",
            "uses",
            "expires_at",
            "withdrawn_at",
            "created_by",
            "created_at",
        )
        read_only_fields = fields


class NewJoinCodeSerializer(StrictSerializer):
    """A join code to be made."""

    label = serializers.CharField(  # type: ignore[assignment]
        max_length=100, required=False, allow_blank=True, default="", help_text="for whom it is"
    )
    model = serializers.SlugRelatedField(
        slug_field="slug",
        queryset=Model.objects.all(),
        required=False,
        allow_null=True,
        default=None,
        help_text="the one model that its participants train; null: any",
    )
    max_uses = serializers.IntegerField(required=False, default=1)
    expires_at = serializers.DateTimeField(
        required=False, allow_null=True, default=None, help_text="null: in a week"
    )


class MadeJoinCodeSerializer(JoinCodeSerializer):
    """A join code with its secret, which is told this once."""

    code = serializers.CharField(read_only=True)

    class Meta:
        model = JoinCode
        fields = (*JoinCodeSerializer.Meta.fields, "code")
        read_only_fields = fields


# --- Events -----------------------------------------------------------------------------------


class EventQuerySerializer(StrictSerializer):
    """Which lines of the journal."""

    after = serializers.IntegerField(
        min_value=0, max_value=GREATEST_ID, default=0, help_text="the greatest id seen so far"
    )
    limit = serializers.IntegerField(min_value=1, max_value=1000, default=100)
    kind = serializers.ChoiceField(choices=sorted(KINDS), required=False)
    model = serializers.IntegerField(required=False, help_text="ids, as events carry them")
    run = serializers.IntegerField(required=False)
    round = serializers.IntegerField(required=False)
    participant = serializers.IntegerField(required=False)


class EventSerializer(serializers.Serializer[Any]):
    """One line of the journal, as `journal.events.as_json` writes it."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    kind = serializers.ChoiceField(choices=sorted(KINDS))
    actor = serializers.CharField(help_text="empty: the server itself")
    reason = serializers.CharField()

    def get_fields(self) -> dict[str, Any]:
        subjects = {name: serializers.IntegerField(required=False) for name in SUBJECTS}
        return super().get_fields() | subjects | {"data": serializers.DictField()}


@extend_schema_serializer(many=False)
class EventsSerializer(serializers.Serializer[Any]):
    """Lines after the cursor, oldest first, and the cursor to go on from."""

    events = EventSerializer(many=True)
    next = serializers.IntegerField(help_text="the `after` of the next request")
