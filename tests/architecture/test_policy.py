"""Every entry point has exactly one row in the policy, and the code requires the permission of the row."""

import pytest
from django.test import Client

from accounts.api.permissions import HasPermission
from accounts.roles import PERMISSIONS
from tests.architecture.policy import POLICY, WORDS
from tests.architecture.routes import (
    METHODS,
    find_missing_rows,
    list_admin_paths,
    list_grpc_routes,
    list_http_routes,
    list_socket_routes,
)
from tests.factories.accounts import UserFactory

ROUTES = list(list_http_routes())
DRF = [route for route in ROUTES if route.is_drf]
PAGES = sorted({route.path for route in ROUTES if not route.is_drf})
UNKNOWN_ID = "018f0000-0000-7000-8000-000000000000"


def methods_of(path):
    """Return the methods of the policy rows of a path."""
    return {row.partition(" ")[0] for row in POLICY if row.partition(" ")[2] == path}


def fill_parameters(path):
    for name, value in (("token", "x"), ("action", "message")):
        path = path.replace(f"{{{name}}}", value)
    while "{" in path:
        path = path[: path.index("{")] + UNKNOWN_ID + path[path.index("}") + 1 :]
    return path


def test_every_entry_point_has_a_row():
    assert not find_missing_rows()


def test_every_row_has_an_entry_point():
    known = {route.row for route in DRF} | set(list_socket_routes()) | {"ANY /admin/"}
    known |= list_grpc_routes().keys()
    stale = {row for row in POLICY.keys() - known if row.partition(" ")[2] not in PAGES}

    assert not stale


def test_rows_name_permissions_or_known_words():
    assert set(POLICY.values()) <= PERMISSIONS | WORDS


@pytest.mark.parametrize("route", DRF, ids=lambda route: route.row)
def test_api_view_declares_the_permission_of_its_row(route):
    assert route.permission == POLICY[route.row]
    assert list(route.view.cls.permission_classes) == [HasPermission]


def test_grpc_methods_require_the_permissions_of_their_rows():
    rows = {row: POLICY[row] for row in POLICY if row.startswith("GRPC ")}

    assert rows == list_grpc_routes()


@pytest.mark.parametrize("path", PAGES)
def test_page_accepts_exactly_the_methods_of_its_rows(client, db, path):
    methods = methods_of(path)
    if methods == {"ANY"}:
        return
    # Without a session a page would redirect every method to the sign-in page.
    client.force_login(UserFactory())

    accepted = {
        method
        for method in METHODS
        if client.generic(method, fill_parameters(path)).status_code != 405
    }

    assert accepted == methods


@pytest.mark.parametrize("row", [row for row in POLICY if POLICY[row] == "signed-in"])
def test_signed_in_page_redirects_anonymous_users_to_the_sign_in_page(client, db, row):
    method, path = row.split(" ", 1)

    response = client.generic(method.replace("ANY", "GET"), fill_parameters(path))

    assert response.status_code == 302
    assert response.headers["Location"].startswith("/sign-in?next=")


@pytest.mark.parametrize("row", [row for row in POLICY if POLICY[row] == "administrator"])
def test_page_of_administrators_exists_for_nobody_else(client, db, row):
    method, path = row.split(" ", 1)

    response = client.generic(method, path)
    assert response.status_code == 302
    assert response.headers["Location"].startswith("/sign-in?next=")
    for user in (UserFactory(), UserFactory(is_staff=True)):
        client.force_login(user)
        assert client.generic(method, path).status_code == 404


@pytest.mark.parametrize("row", [row for row in POLICY if row.endswith("/{token}")])
def test_page_with_an_unknown_token_is_not_found(client, db, row):
    method, path = row.split(" ", 1)

    assert client.generic(method, fill_parameters(path)).status_code == 404


@pytest.mark.parametrize("row", [row for row in POLICY if POLICY[row] == "gateway-token"])
def test_gateway_rejects_requests_without_a_gateway_token(client, api, db, row):
    method, path = row.split(" ", 1)

    for caller in (client, api):  # an API key of a user is not a gateway token
        response = caller.generic(
            method, path, b'{"messages": []}', content_type="application/json"
        )
        assert response.status_code == 401


@pytest.mark.parametrize("token", ["", "right"])
def test_metrics_are_not_found_without_the_metrics_token(client, db, settings, token):
    settings.METRICS_TOKEN = token

    assert client.get("/metrics").status_code == 404
    assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 404
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 404
    right = client.get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert right.status_code == (200 if token else 404)


def test_admin_paths_redirect_everyone_but_staff_to_the_sign_in_page(db, subtests):
    anonymous, member, staff = Client(), Client(), Client()
    member.force_login(UserFactory())
    staff.force_login(UserFactory(is_staff=True))
    paths = set(list_admin_paths()) - {"/admin/login/", "/admin/logout/"}
    assert len(paths) > 100
    for path in sorted(paths):
        with subtests.test(path):
            assert staff.get(path).status_code in STAFF
            for client in (anonymous, member):
                response = client.get(path)
                assert response.status_code == 302
                assert response.headers["Location"].startswith("/admin/login/")


STAFF = {200, 301, 302, 403, 404, 405}
