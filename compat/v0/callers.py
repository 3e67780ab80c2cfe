"""What a V0 client shows when it opens a socket."""

from typing import Any, Final
from urllib.parse import parse_qs
from uuid import UUID

from socketio.exceptions import ConnectionRefusedError as ConnectionRefused

from conversations.realtime.access import Credentials, Refusal, Watcher

Scope = dict[str, Any]
NO_TEXT: Final = ("", "null", "undefined", "None")
"""What existing clients put into the query for a key that they do not have."""


def query_of(scope: Scope) -> dict[str, str]:
    """Return the last value of each parameter of the handshake."""
    query = parse_qs(scope.get("query_string", b"").decode("utf-8", "replace"))
    return {name: values[-1] for name, values in query.items()}


def conversation_key_of(scope: Scope) -> str:
    """Return the key in the header ``X-Session-API-Key`` or in the query, or nothing."""
    headers = dict(scope["headers"])
    key = headers.get(b"x-session-api-key", b"").decode("latin-1").strip()
    key = key or query_of(scope).get("session_api_key", "").strip()
    return "" if key in NO_TEXT else key


def credentials_of(scope: Scope) -> Credentials:
    """Return a key to one conversation, an API key wherever one is sent, else the session cookie."""
    key = conversation_key_of(scope)
    if not key.startswith("oh_"):
        return Credentials.from_scope(scope, keys=[key] if key else [])
    kept = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
    shown = (b"authorization", f"Bearer {key}".encode("latin-1", "replace"))
    return Credentials.from_scope(scope | {"headers": [*kept, shown]})


def admit(scope: Scope) -> Watcher:
    """Return the watcher of the conversation that the query names. Raise ``ConnectionRefused`` if it may not watch."""
    wanted = query_of(scope).get("conversation_id", "")
    if not wanted:
        raise ConnectionRefused("No conversation_id in query params")
    watcher = Watcher(credentials_of(scope), _uuid(wanted))
    refusal = watcher.check_access_now()
    if refusal is Refusal.UNAUTHENTICATED:
        if conversation_key_of(scope):
            raise ConnectionRefused("invalid_session_api_key")
        raise ConnectionRefused("No keycloak_auth cookie or valid Authorization header")
    if refusal is not None:
        sentence = f"User {watcher.user_id} is not allowed to join conversation {wanted[:100]}"
        raise ConnectionRefused(sentence)
    return watcher


def _uuid(text: str) -> UUID:
    """Return an id of 32 hexadecimal digits, dashed or not; for another text, the id of nothing."""
    try:
        return UUID(text)
    except ValueError:
        return UUID(int=0)
