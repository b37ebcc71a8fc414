import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


def tell_the_base(apps, schema_editor):
    """Until now an assignment trained from what its round began with."""
    assignments = apps.get_model("rounds", "Assignment").objects
    base = models.OuterRef("round_id")
    rounds = apps.get_model("rounds", "Round").objects.filter(pk=base)
    assignments.update(
        base_id=models.Subquery(rounds.values("base_id")), invited_in_id=models.F("round_id")
    )


class Migration(migrations.Migration):
    dependencies = [
        ("models_app", "0002_confusion_matrix"),
        ("rounds", "0003_asynchronous_runs_and_stopping_rules"),
    ]

    operations = [
        migrations.AddField(
            model_name="assignment",
            name="base",
            field=models.ForeignKey(
                help_text="the version that it trains from",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="models_app.modelversion",
            ),
        ),
        migrations.AddField(
            model_name="assignment",
            name="invited_in",
            field=models.ForeignKey(
                help_text="an asynchronous round hands those who still train on to the next one",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="rounds.round",
            ),
        ),
        migrations.AddField(
            model_name="assignment",
            name="staleness",
            field=models.PositiveIntegerField(
                default=0,
                help_text="versions that its run published since its base, when it was judged",
            ),
        ),
        migrations.RunPython(tell_the_base, migrations.RunPython.noop),
    ]
