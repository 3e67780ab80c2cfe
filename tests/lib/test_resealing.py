"""Rotation of encryption keys: stored secrets are encrypted again while the server runs, safely if interrupted."""

import io
import os
import secrets
import subprocess
import sys
import threading

import pytest
from django.apps import apps
from django.conf import settings as configured
from django.core.management import CommandError, call_command
from django.db import connection, models, transaction

from billing.models import ModelAccess
from conversations.models import Sandbox
from lib import crypto, resealing
from tests.factories.accounts import OrganizationFactory, UserFactory
from tests.fakes.processes import database_url
from tests.fakes.stack import figure


def create_keyring(*names):
    return {name: secrets.token_bytes(32) for name in names}


def create_model_access(key="sk-1", **fields):
    row = ModelAccess(
        organization=OrganizationFactory(), user=UserFactory(), base_url="https://m.example/v1", model="m", **fields
    )  # fmt: skip
    row.set_api_key(key)
    row.save()
    return row


def rotate(**options):
    """Run the command ``rotate_encryption_key`` and return its output."""
    output = io.StringIO()
    call_command("rotate_encryption_key", stdout=output, stderr=output, **options)
    return output.getvalue()


def test_every_binary_column_is_listed_and_sandbox_keys_open_with_the_listed_binding(db, settings):
    known = {str(column) for column in resealing.columns()}
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, models.BinaryField):
                assert f"{model._meta.db_table}.{field.name}" in known, (
                    "this column may contain a secret, but rotation skips it"
                )
    sandbox = Sandbox()
    sandbox.set_keys(session="a", secret="b")
    [session] = [c for c in resealing.columns() if c.name == "sealed_session_key"]
    [secret] = [c for c in resealing.columns() if c.name == "sealed_secret_key"]
    assert (
        crypto.open_sealed(sandbox.sealed_session_key, bound_to=session.binding(sandbox.pk)) == "a"
    )
    assert crypto.open_sealed(sandbox.sealed_secret_key, bound_to=secret.binding(sandbox.pk)) == "b"


@pytest.mark.parametrize("column", resealing.columns(), ids=str)
def test_secret_set_by_a_model_opens_with_the_listed_binding(column):
    row = column.model()
    name = column.name.removeprefix("sealed_")
    if hasattr(row, "set_keys"):
        row.set_keys(session="x", secret="x")
    elif hasattr(row, f"set_{name}"):
        getattr(row, f"set_{name}")("x")
    else:
        setattr(row, name, "x")

    sealed = getattr(row, column.name)

    assert crypto.open_sealed(sealed, bound_to=column.binding(row.pk)) in ("x", '"x"')


def test_rotation_encrypts_every_secret_with_the_new_key(db, settings):
    settings.ENCRYPTION_KEYS = old = create_keyring("old")
    rows = [create_model_access(f"sk-{n}") for n in range(7)]
    settings.ENCRYPTION_KEYS = create_keyring("new") | old

    assert "billing_modelaccess.sealed_api_key: 7 to encrypt" in rotate(dry_run=True)
    assert resealing.count_old(resealing.Column(ModelAccess, "sealed_api_key")) == 7
    assert rotate(batch=3).endswith("0 secrets are still encrypted with an older key.\n")

    del settings.ENCRYPTION_KEYS["old"]
    for n, row in enumerate(rows):
        row.refresh_from_db()
        assert row.api_key() == f"sk-{n}"
    assert "0 to encrypt" in rotate()


def test_secret_that_cannot_be_decrypted_is_reported_and_not_changed(db, settings):
    settings.ENCRYPTION_KEYS = old = create_keyring("old")
    good, moved, lost = (
        create_model_access("sk-good"),
        create_model_access("sk-moved"),
        create_model_access("sk-lost"),
    )
    ModelAccess.objects.filter(pk=moved.pk).update(sealed_api_key=bytes(good.sealed_api_key))
    settings.ENCRYPTION_KEYS = create_keyring("gone")
    lost.set_api_key("sk-lost")
    lost.save()
    settings.ENCRYPTION_KEYS = create_keyring("new") | old
    output = io.StringIO()

    with pytest.raises(CommandError, match="2 secrets"):
        rotate(batch=1)
    with pytest.raises(CommandError, match="2 secrets"):
        call_command("audit_encrypted_fields", stdout=output)

    assert str(moved.pk) in output.getvalue()
    assert str(lost.pk) in output.getvalue()
    assert str(good.pk) not in output.getvalue()
    assert "gone: 1, new: 1, old: 1" in output.getvalue()
    assert "sk-" not in output.getvalue()
    good.refresh_from_db()
    assert good.api_key() == "sk-good"


@pytest.mark.django_db(transaction=True)
def test_rotation_waits_for_a_concurrent_write_and_keeps_its_value(settings):
    settings.ENCRYPTION_KEYS = old = create_keyring("old")
    row = create_model_access("sk-before")
    settings.ENCRYPTION_KEYS = create_keyring("new") | old
    is_locked, may_write = threading.Event(), threading.Event()

    def write():
        try:
            with transaction.atomic():
                locked_row = ModelAccess.objects.select_for_update().get(pk=row.pk)
                is_locked.set()
                may_write.wait(10)
                locked_row.set_api_key("sk-written")
                locked_row.save()
        finally:
            connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    is_locked.wait(10)
    threading.Timer(0.5, may_write.set).start()
    rotate()
    writer.join()

    row.refresh_from_db()
    assert row.api_key() == "sk-written"
    assert resealing.count_old(resealing.Column(ModelAccess, "sealed_api_key")) == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
@pytest.mark.timeout(170)
def test_every_secret_stays_readable_although_rotation_is_killed_ten_times(settings):
    settings.ENCRYPTION_KEYS = old = create_keyring("old")
    organization = OrganizationFactory()
    total = 330
    for n in range(total):
        sandbox = Sandbox(organization=organization, provider="process")
        sandbox.set_keys(session=f"session-{n}", secret=f"secret-{n}")
        sandbox.save()
    settings.ENCRYPTION_KEYS = both = create_keyring("new") | old
    column = resealing.Column(Sandbox, "sealed_secret_key")
    environment = os.environ | {
        "DATABASE_URL": database_url(),
        "ENCRYPTION_KEYS": ",".join(f"{name}:{key.hex()}" for name, key in both.items()),
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        sys.executable, "-W", "ignore", "manage.py", "rotate_encryption_key", "--batch", "5", "--pause", "0.005",
    ]  # fmt: skip
    kills, remaining = 0, [total * 2]
    while kills < 10:
        process = subprocess.Popen(
            command, cwd=configured.BASE_DIR, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        batches = 0
        for line in process.stdout:
            batches += line.endswith(" encrypted\n")
            if batches >= 4:
                process.kill()
                kills += 1
                break
        process.stdout.close()
        process.wait(20)
        assert batches >= 4, "the command ended before it was killed"
        remaining.append(sum(resealing.count_old(c) for c in resealing.columns()))
        unreadable = [resealing.audit(c)[1] for c in resealing.columns()]
        assert not any(unreadable)
    assert remaining[-1] > 0, "the command was killed only after its work was complete"
    output = rotate(batch=50)

    assert output.endswith("0 secrets are still encrypted with an older key.\n")
    settings.ENCRYPTION_KEYS = {"new": both["new"]}
    rows = list(Sandbox.objects.order_by("created_at", "pk"))
    assert sorted(row.session_key() for row in rows) == sorted(f"session-{n}" for n in range(total))
    assert sorted(row.secret_key() for row in rows) == sorted(f"secret-{n}" for n in range(total))
    assert resealing.count_old(column) == 0
    figure(
        "rotation", secrets=total * 2, kills=kills, left_after_each=remaining, unreadable=0, left=0
    )
