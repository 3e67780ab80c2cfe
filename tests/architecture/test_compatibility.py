"""docs/compatibility.md tells the truth: every route of the peer has a row, and each row is as the program is."""

import re
from collections import Counter
from pathlib import Path

import pytest
from django.urls import Resolver404, resolve

from openhands_site.asgi import MOUNTED
from tests.architecture.routes import socket_routes

ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(
    r"^\| `([A-Z]+ /[^`]+)` \| (served|deliberately not|later) \| ?(.*?) ?\|$", re.MULTILINE
)
FOUND = _ROW.findall((ROOT / "docs/compatibility.md").read_text())
ROWS = {route: (verdict, note) for route, verdict, note in FOUND}
PEER = [
    line
    for line in (Path(__file__).parent / "peer_routes.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
SAMPLES = {"id": "0" * 32, "path": "a", "name": "a", "subdomain": "a"}


def is_served(row: str) -> bool:
    """Whether a route is taken, with its method, by a view, a mounted application or a socket."""
    method, _, path = row.partition(" ")
    if method == "WS":
        return row in socket_routes()
    if any(path.startswith(f"{prefix}/") for prefix in MOUNTED):
        return True
    path = re.sub(r"\{(\w+)\}", lambda match: SAMPLES.get(match[1], "0" * 32), path)
    for shown in (path, path.replace("0" * 32, "00000000-0000-0000-0000-000000000000")):
        try:
            view = resolve(shown).func
        except Resolver404:
            continue
        kind = getattr(view, "cls", None)
        actions = getattr(view, "actions", None)
        if kind is None:
            return True
        return method.lower() in actions if actions else hasattr(kind, method.lower())
    return False


def test_every_route_of_the_peer_has_one_row_and_no_row_is_made_up():
    assert Counter(PEER) == Counter(route for route, _, _ in FOUND)


@pytest.mark.parametrize("row", [row for row, (verdict, _) in ROWS.items() if verdict == "served"])
def test_what_the_table_calls_served_is_there(row):
    assert is_served(row)


@pytest.mark.parametrize(
    "row", [row for row, (verdict, _) in ROWS.items() if verdict == "deliberately not"]
)
def test_what_the_table_calls_left_out_is_not_there_and_has_a_reason(row):
    assert not is_served(row)
    assert ROWS[row][1]
