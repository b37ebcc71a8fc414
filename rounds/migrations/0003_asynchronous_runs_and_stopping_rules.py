import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("models_app", "0002_confusion_matrix"),
        ("rounds", "0002_activities"),
    ]

    operations = [
        migrations.AddField(
            model_name="run",
            name="best_metric",
            field=models.CharField(
                blank=True,
                help_text="the metric by which versions of the run are compared",
                max_length=40,
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="buffer_size",
            field=models.PositiveIntegerField(
                blank=True, help_text="asynchronous: updates that make a version", null=True
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="concurrency",
            field=models.PositiveIntegerField(
                blank=True, help_text="asynchronous: how many train at a time", null=True
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="evaluation_seconds",
            field=models.PositiveIntegerField(default=300),
        ),
        migrations.AddField(
            model_name="run",
            name="evaluators",
            field=models.PositiveIntegerField(
                default=0,
                help_text="participants that evaluate each candidate on their own held-out data; 0: none",
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="evaluators_min",
            field=models.PositiveIntegerField(
                default=3,
                help_text="smallest cohort: of fewer evaluations nothing is shown or used",
                validators=[django.core.validators.MinValueValidator(2)],
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="keep_best",
            field=models.BooleanField(
                default=False,
                help_text="at the end serve the best version of the run, not the last",
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="kind",
            field=models.CharField(
                choices=[
                    ("synchronous", "in rounds: each waits for its cohort"),
                    ("asynchronous", "buffered: nobody waits for the slowest"),
                ],
                default="synchronous",
                max_length=12,
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="patience",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="stop after this many rounds without a better version",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="patience_delta",
            field=models.FloatField(
                default=0.0, help_text="how much better a version has to be to count as better"
            ),
        ),
        migrations.AddField(
            model_name="update",
            name="reports",
            field=models.JSONField(default=dict, help_text="what the run's strategy asked for"),
        ),
    ]
