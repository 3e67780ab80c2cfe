"""Fixtures of a running sandbox with the network profile ``list``, and builders of its decisions."""

import json

import pytest

from conversations import services
from tests.conversations.conftest import list_queued_jobs
from tests.factories.conversations import EgressPolicyFactory


@pytest.fixture
def listed(running, alice):
    """Return Alice's running conversation, whose organization allows only pypi.org."""
    EgressPolicyFactory(organization=alice.personal_organization, hosts=["pypi.org"])
    return running


def build_decision(host="evil.example", **fields):
    """Return a line of a decision log."""
    return {
        "at": "2026-11-29T22:00:00.123Z",
        "host": host,
        "port": 443,
        "address": "",
        "allowed": False,
        "reason": "not-listed",
        "protocol": "connect",
    } | fields


def run_pushes():
    """Run the queued jobs that send network rules to sandboxes."""
    for job in list_queued_jobs("push_egress_policy"):
        services.push_egress_policy(conversation_id=job["conversation_id"])


def list_notices(conversation, code="egress_refused"):
    """Return the payloads of the notices with a code, oldest first."""
    rows = conversation.events.filter(kind="SandboxNotice").order_by("seq")
    payloads = [json.loads(row.payload) for row in rows]
    return [payload for payload in payloads if payload["code"] == code]
