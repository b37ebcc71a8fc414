import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("models_app", "0002_confusion_matrix"),
        ("rounds", "0004_base_of_an_assignment"),
    ]

    operations = [
        migrations.AlterField(
            model_name="assignment",
            name="base",
            field=models.ForeignKey(
                help_text="the version that it trains from",
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="models_app.modelversion",
            ),
        ),
        migrations.AlterField(
            model_name="assignment",
            name="invited_in",
            field=models.ForeignKey(
                help_text="an asynchronous round hands those who still train on to the next one",
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="rounds.round",
            ),
        ),
    ]
