"""What the lists can be narrowed to."""

from typing import Any

from django import forms
from django_filters import rest_framework as filters

from rounds.api.serializers import GREATEST_ID
from rounds.models import Assignment, JoinCode, Participant, Round, Run


class WholeNumberFilter(filters.NumberFilter):
    """Ids and the like: no fractions, and nothing that a database could not hold."""

    field_class = forms.IntegerField

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, max_value=GREATEST_ID, **options)


class RunFilter(filters.FilterSet):
    model = filters.CharFilter(field_name="model__slug")
    name = filters.CharFilter(lookup_expr="icontains")
    state = filters.MultipleChoiceFilter(choices=Run.State.choices)
    created_by = filters.CharFilter(field_name="created_by__username")

    class Meta:
        model = Run
        fields = ("model", "name", "state", "strategy", "created_by")


class RoundFilter(filters.FilterSet):
    run = WholeNumberFilter(field_name="run_id")
    model = filters.CharFilter(field_name="run__model__slug")
    number = WholeNumberFilter()
    phase = filters.MultipleChoiceFilter(choices=Round.Phase.choices)

    class Meta:
        model = Round
        fields = ("run", "model", "number", "phase", "code")


class AssignmentFilter(filters.FilterSet):
    participant = filters.UUIDFilter(field_name="participant__uuid")
    state = filters.MultipleChoiceFilter(choices=Assignment.State.choices)

    class Meta:
        model = Assignment
        fields = ("participant", "state", "code")


class ParticipantFilter(filters.FilterSet):
    name = filters.CharFilter(lookup_expr="icontains")
    model = filters.CharFilter(field_name="model__slug")
    state = filters.MultipleChoiceFilter(choices=Participant.State.choices)
    join_code = WholeNumberFilter(field_name="join_code_id")
    seen_since = filters.IsoDateTimeFilter(field_name="last_seen_at", lookup_expr="gte")

    class Meta:
        model = Participant
        fields = ("name", "model", "state", "join_code", "seen_since")


class JoinCodeFilter(filters.FilterSet):
    label = filters.CharFilter(lookup_expr="icontains")
    model = filters.CharFilter(field_name="model__slug")
    withdrawn = filters.BooleanFilter(field_name="withdrawn_at", lookup_expr="isnull", exclude=True)

    class Meta:
        model = JoinCode
        fields = ("label", "model", "withdrawn")
