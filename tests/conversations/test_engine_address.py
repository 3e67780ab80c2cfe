"""No address of an engine is stored, and a running installation is upgraded in a safe order."""

from importlib import import_module
from types import SimpleNamespace

import pytest
from django.db import connection

from conversations.models import Sandbox

migration = import_module("conversations.migrations.0002_no_engine_address")
EDITOR = SimpleNamespace(connection=connection)


def set_addresses(address: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE conversations_sandbox SET base_url = %s", [address])


def read_addresses() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT base_url FROM conversations_sandbox")
        return [address for (address,) in cursor.fetchall()]


def test_row_of_a_running_sandbox_contains_no_address(running, engine):
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(s)::text FROM conversations_sandbox s")
        [(row,)] = cursor.fetchall()

    assert str(running.sandbox_id) in row
    for part in ("127.0.0.1", "localhost", "http:", f":{engine.server_address[1]}"):
        assert part not in row
    assert "base_url" not in {field.name for field in Sandbox._meta.get_fields()}


def test_stored_addresses_are_cleared_in_batches(alice, monkeypatch):
    monkeypatch.setattr(migration, "CLEAR", migration.CLEAR.replace("LIMIT 1000", "LIMIT 2"))
    for _ in range(5):
        sandbox = Sandbox(organization=alice.personal_organization, provider="process")
        sandbox.set_keys(session="a", secret="b")
        sandbox.save()
    assert read_addresses() == [""] * 5
    set_addresses("http://127.0.0.1:1")

    migration.clear_addresses(None, EDITOR)

    assert read_addresses() == [""] * 5


@pytest.mark.parametrize(
    ("observed", "address"), [("running", "http://127.0.0.1:20001"), ("stopped", "")]
)
def test_reversal_restores_the_addresses_of_running_engines(running, observed, address):
    Sandbox.objects.update(observed=observed, handle={"port": 20_001})

    migration.restore_addresses(None, EDITOR)

    assert read_addresses() == [address]
