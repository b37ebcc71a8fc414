import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("models_app", "0002_confusion_matrix"),
        ("rounds", "0005_base_is_always_known"),
    ]

    operations = [
        migrations.CreateModel(
            name="FederatedEvaluation",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("open", "Open"),
                            ("done", "Done"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="open",
                        max_length=9,
                    ),
                ),
                ("reason", models.TextField(blank=True)),
                ("goal", models.PositiveIntegerField(help_text="reports that end it")),
                (
                    "minimum",
                    models.PositiveIntegerField(
                        help_text="fewest reports of which anything is shown"
                    ),
                ),
                ("deadline", models.DateTimeField()),
                (
                    "summary",
                    models.JSONField(default=dict, help_text="empty until enough reports are here"),
                ),
                ("created_by", models.CharField(blank=True, max_length=150)),
                (
                    "opened_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "round",
                    models.OneToOneField(
                        help_text="whose candidate it is; empty: an operator asked for it",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="federated_evaluation",
                        to="rounds.round",
                    ),
                ),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="federated_evaluations",
                        to="models_app.modelversion",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="EvaluationReport",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "samples",
                    models.PositiveBigIntegerField(
                        help_text="null until it has reported", null=True
                    ),
                ),
                ("metrics", models.JSONField(default=dict)),
                (
                    "classes",
                    models.JSONField(
                        help_text="for each class how many examples, and how many were recognised",
                        null=True,
                    ),
                ),
                (
                    "code",
                    models.CharField(blank=True, help_text="why there is no report", max_length=64),
                ),
                ("reason", models.TextField(blank=True)),
                (
                    "asked_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
                ("reported_at", models.DateTimeField(null=True)),
                (
                    "participant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="evaluation_reports",
                        to="rounds.participant",
                    ),
                ),
                (
                    "evaluation",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="reports",
                        to="rounds.federatedevaluation",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("evaluation", "participant"), name="one_report_per_evaluation"
                    )
                ],
            },
        ),
    ]
