"""``authenticate_scope``: the user of a socket by API key, session cookie or access token."""

import pytest
from django.contrib.auth.models import AnonymousUser
from django.test import Client

from accounts import services
from accounts.services import passwords
from accounts.sign_in.authentication import authenticate_scope
from tests.accounts.second_factor import PASSWORD


def authenticate(address="192.0.2.1", **headers):
    """Return the user of a socket that opened with these headers; ``_`` in a name stands for ``-``."""
    pairs = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
    return authenticate_scope({"headers": pairs, "client": (address, 1234)})


def open_session(user):
    client = Client()
    client.force_login(user)
    return f"sessionid={client.cookies['sessionid'].value}"


@pytest.mark.parametrize("header", ["authorization", "x_api_key"])
def test_api_key_in_either_header_is_its_owner(alice, header):
    _, token = services.issue_api_key(user=alice, name="x", scopes=["account.view"])
    value = f"bearer {token}" if header == "authorization" else token

    user = authenticate(**{header: value})

    assert user == alice
    assert user.key_scopes == {"account.view"}


def test_api_key_works_from_its_allowed_networks_only(alice):
    _, token = services.issue_api_key(user=alice, name="x", allowed_networks=["192.0.2.0/24"])

    assert authenticate("192.0.2.9", x_api_key=token) == alice
    assert authenticate("198.51.100.1", x_api_key=token) == AnonymousUser()


def test_revoked_key_is_anonymous_even_with_a_valid_session_cookie(alice):
    key, token = services.issue_api_key(user=alice, name="x")
    cookie = open_session(alice)
    assert authenticate(cookie=cookie) == alice
    services.revoke_api_key(key=key)

    assert authenticate(x_api_key=token, cookie=cookie) == AnonymousUser()


@pytest.mark.parametrize("token", ["oh_x.y", "a.b.c", "nonsense", "\xff.\xff.\xff"])
def test_invalid_token_is_anonymous(db, token):
    assert authenticate(authorization=f"Bearer {token}") == AnonymousUser()


def test_socket_without_headers_is_anonymous(db):
    assert authenticate() == AnonymousUser()


def test_unix_socket_without_a_client_address_authenticates_a_key(alice):
    _, token = services.issue_api_key(user=alice, name="x")
    scope = {"headers": [(b"x-api-key", token.encode())], "client": None}

    assert authenticate_scope(scope) == alice


def test_session_cookie_is_anonymous_after_a_new_password(alice):
    cookie = open_session(alice)
    assert authenticate(cookie=cookie) == alice

    passwords.change_password(user=alice, current=PASSWORD, new="another battery staple")

    assert authenticate(cookie=cookie) == AnonymousUser()
