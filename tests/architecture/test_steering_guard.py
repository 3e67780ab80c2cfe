"""Every entry point that drives a run says who does it, and asks for the permission on the conversation itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EDGES = [
    path
    for folder in ("compat", "integrations", "conversations/api", "conversations/web")
    for path in (ROOT / folder).rglob("*.py")
] + [ROOT / "conversations/realtime/access.py", ROOT / "conversations/grpc/service.py"]
DRIVING = {
    "post_message",
    "send_held_messages",
    "answer_confirmation",
    "resume",
    "interrupt",
    "wake",
    "write_file",
    "set_confirmation",
    "set_sharing",
}
"""Services that drive or stop a run. Without ``by`` they act for the creator, which only this server itself may do."""
OF_ORGANIZATION = {"conversations.view", "conversations.create"}
"""Permissions that mean the same on every conversation of an organization."""


def list_calls():
    for path in EDGES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                function = node.func
                name = getattr(function, "attr", getattr(function, "id", ""))
                yield path.relative_to(ROOT), name, node


def test_every_driving_call_names_the_user():
    calls = [(path, name, node) for path, name, node in list_calls() if name in DRIVING]
    without = [
        f"{path}:{node.lineno} {name}"
        for path, name, node in calls
        if isinstance(node.func, ast.Attribute)
        and getattr(node.func.value, "id", "") in ("services", "conversations")
        and "by" not in {keyword.arg for keyword in node.keywords}
    ]

    assert len(calls) > 20
    assert without == []


def test_no_edge_asks_for_a_permission_in_the_organization_of_a_conversation():
    wrong = []
    for path, name, node in list_calls():
        if name not in ("require", "permissions_in") or len(node.args) < 2:
            continue
        place = ast.unparse(node.args[1])
        permission = ast.unparse(node.args[2]).strip("'\"") if len(node.args) > 2 else ""
        if place.startswith(("conversation.", "row.")) and permission not in OF_ORGANIZATION:
            wrong.append(f"{path}:{node.lineno} {name}({place}, {permission})")

    assert wrong == []


@pytest.mark.parametrize("name", sorted(DRIVING))
def test_driving_services_exist(name):
    from conversations import services

    assert callable(getattr(services, name, None) or services.sandboxes.wake)
