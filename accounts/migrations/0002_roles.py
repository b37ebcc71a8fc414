from django.db import migrations

ROLES = ("viewer", "operator", "owner")


def create_groups(apps, schema_editor):
    groups = apps.get_model("auth", "Group").objects.using(schema_editor.connection.alias)
    for name in ROLES:
        groups.get_or_create(name=name)


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_personal_tokens"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    # Backwards the groups stay: people may be in them.
    operations = [migrations.RunPython(create_groups, migrations.RunPython.noop)]
