import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from conversations.management.commands import grpc_stubs


def test_committed_stubs_match_the_proto():
    call_command("grpc_stubs", check=True)


def test_changed_stub_fails_the_check_with_its_name(monkeypatch):
    built = grpc_stubs.build()
    monkeypatch.setattr(grpc_stubs, "build", lambda: built | {"events_pb2.py": "other"})

    with pytest.raises(CommandError, match=r"events_pb2\.py"):
        call_command("grpc_stubs", check=True)
