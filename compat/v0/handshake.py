"""The handshake of a V0 socket: its query string, its credentials, and the check of the caller's access."""

from typing import Any, Final
from urllib.parse import parse_qs
from uuid import UUID

from socketio.exceptions import ConnectionRefusedError as ConnectionRefused

from conversations.realtime.access import Credentials, Refusal, Watcher

Scope = dict[str, Any]
EMPTY_KEYS: Final = ("", "null", "undefined", "None")
"""Values of ``session_api_key`` that mean no key: the web client writes its null as the text ``null``."""


CURSOR_DIGITS: Final = 18
"""The maximum number of digits of a cursor. Longer numbers may not fit PostgreSQL's ``bigint``."""


def parse_query(scope: Scope) -> dict[str, str]:
    """Return the parameters in the query string of a handshake. The last value of a repeated parameter counts."""
    query = parse_qs(scope.get("query_string", b"").decode("utf-8", "replace"))
    return {name: values[-1] for name, values in query.items()}


def read_conversation_key(scope: Scope) -> str:
    """Return the key in the header ``X-Session-API-Key``, else the key in the query string, else ``""``."""
    headers = dict(scope["headers"])
    key = headers.get(b"x-session-api-key", b"").decode("latin-1").strip()
    # A browser cannot set headers on a WebSocket, so the web client sends the key in the query string.
    key = key or parse_query(scope).get("session_api_key", "").strip()
    return "" if key in EMPTY_KEYS else key


def read_credentials(scope: Scope) -> Credentials:
    """Return the caller's credentials: a conversation key, an API key, or the session cookie.

    Clients may send an API key (``oh_…``) in place of a conversation key. The API key then counts instead of
    the header ``Authorization``.
    """
    key = read_conversation_key(scope)
    if not key.startswith("oh_"):
        return Credentials.from_scope(scope, keys=[key] if key else [])
    headers = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
    headers.append((b"authorization", f"Bearer {key}".encode("latin-1", "replace")))
    return Credentials.from_scope(scope | {"headers": headers})


def read_watcher(scope: Scope) -> Watcher:
    """Return a ``Watcher`` (one caller of one conversation) for a handshake. Its access is not checked yet.

    Raise ``ConnectionRefused`` if the handshake names no conversation. Clients receive the message of the exception as
    ``connect_error``, so the messages of this module are the same as on OpenHands' own server.
    """
    requested_id = parse_query(scope).get("conversation_id", "")
    if not requested_id:
        raise ConnectionRefused("No conversation_id in query params")
    return Watcher(read_credentials(scope), _parse_id(requested_id))


def raise_refusal(scope: Scope, watcher: Watcher, refusal: Refusal | None) -> None:
    """Raise ``ConnectionRefused`` if the caller may not watch the conversation: ``refusal`` is the reason."""
    if refusal is Refusal.UNAUTHENTICATED:
        if read_conversation_key(scope):
            raise ConnectionRefused("invalid_session_api_key")
        raise ConnectionRefused("No keycloak_auth cookie or valid Authorization header")
    if refusal is not None:
        requested_id = parse_query(scope).get("conversation_id", "")
        message = f"User {watcher.user_id} is not allowed to join conversation {requested_id[:100]}"
        raise ConnectionRefused(message)


def parse_cursor(scope: Scope) -> int:
    """Return ``latest_event_id`` of the query string: the ``seq`` after which to send events.

    For negative numbers (clients without events send -1), and for the values by which JavaScript clients say nothing,
    return 0: the start of the log. Raise ``ConnectionRefused`` for any other value.
    """
    value = parse_query(scope).get("latest_event_id", "").strip()
    if value in EMPTY_KEYS:
        return 0
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= CURSOR_DIGITS):
        raise ConnectionRefused(
            "latest_event_id: Send the id of the last event that you received, or -1 for all events."
        )
    return max(int(value), 0)


def _parse_id(text: str) -> UUID:
    """Return the UUID in a text. Return the nil UUID, which no conversation has, for any other text."""
    try:
        return UUID(text)
    except ValueError:
        return UUID(int=0)
