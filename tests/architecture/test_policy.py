"""Every entry point has exactly one row in the policy, and the code asks for what the row says."""

import pytest
from django.test import Client

from accounts.api.permissions import HasPermission
from accounts.roles import PERMISSIONS
from tests.architecture.policy import POLICY, WORDS
from tests.architecture.routes import (
    METHODS,
    admin_paths,
    grpc_routes,
    http_routes,
    missing_rows,
    socket_routes,
)
from tests.factories.accounts import UserFactory

ROUTES = list(http_routes())
DRF = [route for route in ROUTES if route.is_drf]
PAGES = sorted({route.path for route in ROUTES if not route.is_drf})
NOBODY = "018f0000-0000-7000-8000-000000000000"


def rows_of(path):
    return {row.partition(" ")[0] for row in POLICY if row.partition(" ")[2] == path}


def fill(path):
    for name, value in (("token", "x"), ("action", "message")):
        path = path.replace(f"{{{name}}}", value)
    while "{" in path:
        path = path[: path.index("{")] + NOBODY + path[path.index("}") + 1 :]
    return path


def test_every_entry_point_has_a_row():
    assert not missing_rows()


def test_every_row_has_an_entry_point():
    known = {route.row for route in DRF} | set(socket_routes()) | {"ANY /admin/"}
    known |= grpc_routes().keys()
    stale = {row for row in POLICY.keys() - known if row.partition(" ")[2] not in PAGES}

    assert not stale


def test_rows_use_known_words():
    assert set(POLICY.values()) <= PERMISSIONS | WORDS


@pytest.mark.parametrize("route", DRF, ids=lambda route: route.row)
def test_api_view_asks_for_what_its_row_says(route):
    assert route.permission == POLICY[route.row]
    assert list(route.view.cls.permission_classes) == [HasPermission]


def test_grpc_asks_for_what_its_rows_say():
    rows = {row: POLICY[row] for row in POLICY if row.startswith("GRPC ")}

    assert rows == grpc_routes()


@pytest.mark.parametrize("path", PAGES)
def test_other_views_take_the_methods_of_their_rows_and_no_others(client, db, path):
    """Sent as somebody who is signed in: the method must be refused for itself, not for the caller."""
    methods = rows_of(path)
    if methods == {"ANY"}:
        return
    client.force_login(UserFactory())

    taken = {method for method in METHODS if client.generic(method, fill(path)).status_code != 405}

    assert taken == methods


@pytest.mark.parametrize("row", [row for row in POLICY if POLICY[row] == "signed-in"])
def test_pages_send_strangers_to_the_sign_in_page(client, db, row):
    method, path = row.split(" ", 1)

    response = client.generic(method.replace("ANY", "GET"), fill(path))

    assert response.status_code == 302
    assert response.headers["Location"].startswith("/sign-in?next=")


@pytest.mark.parametrize("row", [row for row in POLICY if row.endswith("/{token}")])
def test_setup_needs_its_token(client, db, row):
    method, path = row.split(" ", 1)

    assert client.generic(method, fill(path)).status_code == 404


@pytest.mark.parametrize("row", [row for row in POLICY if POLICY[row] == "gateway-token"])
def test_gateway_needs_its_token(client, api, db, row):
    method, path = row.split(" ", 1)

    for caller in (client, api):  # an API key of a person is no gateway token
        response = caller.generic(
            method, path, b'{"messages": []}', content_type="application/json"
        )
        assert response.status_code == 401


@pytest.mark.parametrize("token", ["", "right"])
def test_metrics_need_their_token(client, db, settings, token):
    settings.METRICS_TOKEN = token

    assert client.get("/metrics").status_code == 404
    assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 404
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 404
    right = client.get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert right.status_code == (200 if token else 404)


@pytest.mark.parametrize("path", admin_paths())
def test_admin_is_for_staff(db, path):
    """Nobody and ordinary users are sent to its sign-in page; staff without permissions see no rows."""
    if path in ("/admin/login/", "/admin/logout/"):
        return
    for user, allowed in (
        (None, {302}),
        (UserFactory(), {302}),
        (UserFactory(is_staff=True), STAFF),
    ):
        client = Client()
        if user:
            client.force_login(user)
        response = client.get(path)
        assert response.status_code in allowed, path
        if response.status_code == 302 and (user is None or not user.is_staff):
            assert response.headers["Location"].startswith("/admin/login/")


STAFF = {200, 301, 302, 403, 404, 405}
