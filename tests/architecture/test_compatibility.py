"""docs/compatibility.md has a row for every route of OpenHands, and each row is true of this program."""

import re
from collections import Counter
from pathlib import Path

import pytest
from django.urls import Resolver404, resolve

from openhands_site.asgi import MOUNTED
from tests.architecture.routes import list_socket_routes

ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(
    r"^\| `([A-Z]+ /[^`]+)` \| (served|deliberately not|later) \| ?(.*?) ?\|$", re.MULTILINE
)
TABLE = _ROW.findall((ROOT / "docs/compatibility.md").read_text())
ROWS = {route: (verdict, note) for route, verdict, note in TABLE}
PEER_ROUTES = [
    line
    for line in (Path(__file__).parent / "peer_routes.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
SAMPLES = {"id": "0" * 32, "path": "a", "name": "a", "subdomain": "a"}


def is_served(row: str) -> bool:
    """Return whether a view, a mounted application or a socket serves a method and path."""
    method, _, path = row.partition(" ")
    if method == "WS":
        return row in list_socket_routes()
    if any(path.startswith(f"{prefix}/") for prefix in MOUNTED):
        return True
    path = re.sub(r"\{(\w+)\}", lambda match: SAMPLES.get(match[1], "0" * 32), path)
    for sample_path in (path, path.replace("0" * 32, "00000000-0000-0000-0000-000000000000")):
        try:
            view = resolve(sample_path).func
        except Resolver404:
            continue
        kind = getattr(view, "cls", None)
        actions = getattr(view, "actions", None)
        if kind is None:
            return True
        return method.lower() in actions if actions else hasattr(kind, method.lower())
    return False


def test_every_route_of_the_peer_has_exactly_one_row():
    assert Counter(PEER_ROUTES) == Counter(route for route, _, _ in TABLE)


@pytest.mark.parametrize("row", [row for row, (verdict, _) in ROWS.items() if verdict == "served"])
def test_route_marked_as_served_exists(row):
    assert is_served(row)


@pytest.mark.parametrize(
    "row", [row for row, (verdict, _) in ROWS.items() if verdict in ("deliberately not", "later")]
)
def test_route_marked_as_left_out_does_not_exist_and_has_a_reason(row):
    assert not is_served(row)
    assert ROWS[row][1]
