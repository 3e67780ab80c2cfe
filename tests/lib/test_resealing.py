"""Secrets at rest move to a new key while the server runs, and whatever kills the command."""

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


def ring(*names):
    return {name: secrets.token_bytes(32) for name in names}


def access(key="sk-1", **fields):
    found = ModelAccess(
        organization=OrganizationFactory(), user=UserFactory(), base_url="https://m.example/v1", model="m", **fields
    )  # fmt: skip
    found.set_api_key(key)
    found.save()
    return found


def rotate(**options):
    said = io.StringIO()
    call_command("rotate_encryption_key", stdout=said, stderr=said, **options)
    return said.getvalue()


def test_every_sealed_column_is_known_and_bound_as_its_model_binds_it(db, settings):
    """Each model's own setter seals, and the registry's binding opens it."""
    known = {str(column) for column in resealing.columns()}
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, models.BinaryField):
                assert f"{model._meta.db_table}.{field.name}" in known, (
                    "a secret under another name"
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
def test_a_models_own_setter_binds_as_the_registry_says(column):
    row = column.model()
    plain = column.name.removeprefix("sealed_")
    if hasattr(row, "set_keys"):
        row.set_keys(session="x", secret="x")
    elif hasattr(row, f"set_{plain}"):
        getattr(row, f"set_{plain}")("x")
    else:
        setattr(row, plain, "x")

    sealed = getattr(row, column.name)

    assert crypto.open_sealed(sealed, bound_to=column.binding(row.pk)) in ("x", '"x"')


def test_rotation_moves_everything_and_says_so(db, settings):
    settings.ENCRYPTION_KEYS = old = ring("old")
    rows = [access(f"sk-{n}") for n in range(7)]
    settings.ENCRYPTION_KEYS = ring("new") | old

    assert "billing_modelaccess.sealed_api_key: 7 to encrypt" in rotate(dry_run=True)
    assert resealing.count_old(resealing.Column(ModelAccess, "sealed_api_key")) == 7
    assert rotate(batch=3).endswith("0 secrets are left on older keys.\n")

    del settings.ENCRYPTION_KEYS["old"]
    for n, row in enumerate(rows):
        row.refresh_from_db()
        assert row.api_key() == f"sk-{n}"
    assert "0 to encrypt" in rotate()


def test_what_does_not_open_is_left_named_and_reported(db, settings):
    settings.ENCRYPTION_KEYS = old = ring("old")
    good, moved, lost = access("sk-good"), access("sk-moved"), access("sk-lost")
    ModelAccess.objects.filter(pk=moved.pk).update(sealed_api_key=bytes(good.sealed_api_key))
    settings.ENCRYPTION_KEYS = ring("gone")
    lost.set_api_key("sk-lost")
    lost.save()
    settings.ENCRYPTION_KEYS = ring("new") | old
    said = io.StringIO()

    with pytest.raises(CommandError, match="2 secrets"):
        rotate(batch=1)
    with pytest.raises(CommandError, match="2 secrets"):
        call_command("audit_encrypted_fields", stdout=said)

    assert str(moved.pk) in said.getvalue()
    assert str(lost.pk) in said.getvalue()
    assert str(good.pk) not in said.getvalue()
    assert "gone: 1, new: 1, old: 1" in said.getvalue()
    assert "sk-" not in said.getvalue()
    good.refresh_from_db()
    assert good.api_key() == "sk-good"


@pytest.mark.django_db(transaction=True)
def test_a_write_during_rotation_is_not_lost(settings):
    """A writer that holds the row while the batch wants it: the batch waits, then resees what was written."""
    settings.ENCRYPTION_KEYS = old = ring("old")
    row = access("sk-before")
    settings.ENCRYPTION_KEYS = ring("new") | old
    holding, go = threading.Event(), threading.Event()

    def write():
        try:
            with transaction.atomic():
                mine = ModelAccess.objects.select_for_update().get(pk=row.pk)
                holding.set()
                go.wait(10)
                mine.set_api_key("sk-written")
                mine.save()
        finally:
            connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    holding.wait(10)
    threading.Timer(0.5, go.set).start()
    rotate()
    writer.join()

    row.refresh_from_db()
    assert row.api_key() == "sk-written"
    assert resealing.count_old(resealing.Column(ModelAccess, "sealed_api_key")) == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(170)
def test_killed_ten_times_midway_everything_stays_readable(settings):
    settings.ENCRYPTION_KEYS = old = ring("old")
    organization = OrganizationFactory()
    total = 330
    for n in range(total):
        sandbox = Sandbox(organization=organization, provider="process")
        sandbox.set_keys(session=f"session-{n}", secret=f"secret-{n}")
        sandbox.save()
    settings.ENCRYPTION_KEYS = both = ring("new") | old
    column = resealing.Column(Sandbox, "sealed_secret_key")
    environment = os.environ | {
        "DATABASE_URL": database_url(),
        "ENCRYPTION_KEYS": ",".join(f"{name}:{key.hex()}" for name, key in both.items()),
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        sys.executable, "-W", "ignore", "manage.py", "rotate_encryption_key", "--batch", "5", "--pause", "0.005",
    ]  # fmt: skip
    kills, left = 0, [total * 2]
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
        assert batches >= 4, "it ended before it was killed"
        left.append(sum(resealing.count_old(c) for c in resealing.columns()))
        readable = [resealing.audit(c)[1] for c in resealing.columns()]
        assert not any(readable)
    assert left[-1] > 0, "killed only after the end"
    said = rotate(batch=50)

    assert said.endswith("0 secrets are left on older keys.\n")
    settings.ENCRYPTION_KEYS = {"new": both["new"]}
    rows = list(Sandbox.objects.order_by("created_at", "pk"))
    assert sorted(row.session_key() for row in rows) == sorted(f"session-{n}" for n in range(total))
    assert sorted(row.secret_key() for row in rows) == sorted(f"secret-{n}" for n in range(total))
    assert resealing.count_old(column) == 0
    figure("rotation", secrets=total * 2, kills=kills, left_after_each=left, unreadable=0, left=0)
