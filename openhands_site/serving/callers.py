"""The check of a request's credential from its head, before its body is read."""

from functools import cache
from re import Pattern
from typing import Any

from accounts.services import InvalidKey
from billing import services as billing
from billing.services import InvalidGatewayToken
from conversations.api.authentication import HEADER
from conversations.realtime.access import Credentials
from lib.routes import url_pattern


@cache
def gateway_paths() -> Pattern[str]:
    """Return a pattern of the model gateway's URL paths, which take gateway tokens instead of keys."""
    return url_pattern(lambda facts: facts.body_limit == "GATEWAY_BODY_MAX_BYTES")


def has_valid_credential(scope: dict[str, Any]) -> bool:
    """Return whether an HTTP request has a valid API key, conversation key, access token, session or gateway token.

    The view checks the credential again, together with the permissions.
    """
    headers = {name: value.decode("latin-1").strip() for name, value in scope["headers"]}
    scheme, _, bearer = headers.get(b"authorization", "").partition(" ")
    bearer = bearer.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key", "")
    if gateway_paths().fullmatch(scope["path"]):
        try:
            billing.authenticate_gateway_token(bearer)
        except InvalidGatewayToken:
            return False
        return True
    key = headers.get(HEADER.lower().encode(), "")
    # A conversation key may also be a bearer token.
    keys = [token for token in (key, bearer if bearer.startswith("ocs_") else "") if token]
    try:
        return Credentials.from_scope(scope, keys=keys).user() is not None
    except InvalidKey:
        return False
