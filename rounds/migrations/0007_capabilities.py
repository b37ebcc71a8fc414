from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("rounds", "0006_federated_evaluations"),
    ]

    operations = [
        migrations.AddField(
            model_name="participant",
            name="capabilities",
            field=models.CharField(
                blank=True,
                default="",
                help_text="what its SDK can do, to be searched",
                max_length=1400,
            ),
        ),
    ]
