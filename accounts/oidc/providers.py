"""What a provider publishes about itself: its addresses (discovery) and its keys (JWKS), cached.

Both caches live in the process and keep the last good answer: while a provider is away, tokens that it made
can still be checked.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2
import jwt
from django.conf import settings

from accounts.models import IdentityProvider
from lib import http

T = TypeVar("T")
METADATA_SECONDS = 3_600.0
KEYS_SECONDS = 600.0
REFETCH_PAUSE_SECONDS = 10.0
"""Unknown key ids ask the provider again at most this often, whoever sends them."""
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class ProviderUnavailable(Exception):
    """The provider does not answer, or answers what cannot be understood: nothing is known for now."""


class ProviderRefused(Exception):
    """The provider answered with an OAuth error; ``code`` is its ``error``."""

    def __init__(self, code: str, description: str = "") -> None:
        self.code, self.description = code, description
        super().__init__(f"{code}: {description}" if description else code)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The part of a discovery document that is used here."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""


@dataclass(slots=True)
class _Cached(Generic[T]):
    value: T
    fetched_at: float


_lock = threading.Lock()
_metadata: dict[str, _Cached[Metadata]] = {}
_keys: dict[str, _Cached[list[jwt.PyJWK]]] = {}


def forget() -> None:
    """Empty the caches of this process. Safe to repeat."""
    with _lock:
        _metadata.clear()
        _keys.clear()


def metadata(provider: IdentityProvider) -> Metadata:
    """The provider's addresses; a document that names another issuer is not believed.

    Raises ``ProviderUnavailable`` when there has never been a good answer.
    """
    cached = _metadata.get(provider.issuer)
    if cached and time.monotonic() - cached.fetched_at < METADATA_SECONDS:
        return cached.value
    try:
        found = _discover(provider)
    except ProviderUnavailable:
        if cached:
            return cached.value
        raise
    with _lock:
        _metadata[provider.issuer] = _Cached(found, time.monotonic())
    return found


def _discover(provider: IdentityProvider) -> Metadata:
    url = provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
    document = _json(call("GET", url))
    if document.get("issuer") != provider.issuer:
        raise ProviderUnavailable("the discovery document names another issuer")
    fields = {name: document.get(name) or "" for name in Metadata.__slots__}
    is_plain_allowed = provider.issuer.startswith("http://")
    for name, value in fields.items():
        wanted = ("https://", "http://") if is_plain_allowed else ("https://",)
        missing = name in ENDPOINTS and not value
        if missing or (value and not str(value).startswith(wanted)):
            raise ProviderUnavailable(f"the discovery document has no usable {name}")
    return Metadata(**fields)


def signing_key(provider: IdentityProvider, *, key_id: str | None) -> jwt.PyJWK:
    """The provider's key of an id; an unknown id fetches the keys once more, for they rotate.

    A token without an id is taken only where there is a single key. Raises ``ProviderUnavailable`` and
    ``KeyError`` (the provider has no such key).
    """
    cached = _keys.get(provider.issuer)
    age = time.monotonic() - cached.fetched_at if cached else KEYS_SECONDS
    if cached is None or age >= KEYS_SECONDS:
        cached = _fetch_keys(provider, cached)
    found = _pick(cached.value, key_id)
    if found is None and time.monotonic() - cached.fetched_at >= REFETCH_PAUSE_SECONDS:
        found = _pick(_fetch_keys(provider, cached).value, key_id)
    if found is None:
        raise KeyError("the provider has no such key")
    return found


def _fetch_keys(
    provider: IdentityProvider, cached: _Cached[list[jwt.PyJWK]] | None
) -> _Cached[list[jwt.PyJWK]]:
    try:
        document = _json(call("GET", metadata(provider).jwks_uri))
        listed = document.get("keys")
        entries = listed if isinstance(listed, list) else []
        keys = [key for key in map(_usable, entries) if key is not None]
    except ProviderUnavailable:
        if cached is None:
            raise
        keys = cached.value
    fresh = _Cached(keys, time.monotonic())
    with _lock:
        _keys[provider.issuer] = fresh
    return fresh


def _usable(entry: Any) -> jwt.PyJWK | None:
    """A public signature key, or None for keys to encrypt with, secrets, and kinds unknown here."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    try:
        return jwt.PyJWK(entry)
    except (jwt.PyJWTError, KeyError, ValueError, TypeError):
        return None


def _pick(keys: list[jwt.PyJWK], key_id: str | None) -> jwt.PyJWK | None:
    if key_id is None:
        return keys[0] if len(keys) == 1 else None
    return next((key for key in keys if key.key_id == key_id), None)


def call(method: str, url: str, **request: Any) -> httpx2.Response:
    """One request to a provider. Raises ``ProviderUnavailable`` where none or a 5xx came back."""
    try:
        with http.client(seconds=settings.OIDC_TIMEOUT_SECONDS, guarded=False) as client:
            response = client.request(method, url, **request)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise ProviderUnavailable(type(error).__name__) from error
    if response.status_code >= 500 or response.status_code == 429:
        raise ProviderUnavailable(f"HTTP {response.status_code}")
    return response


def token_request(provider: IdentityProvider, **form: str) -> dict[str, Any]:
    """Ask the token endpoint as this client. Raises ``ProviderRefused`` and ``ProviderUnavailable``."""
    form |= {"client_id": provider.client_id}
    if secret := provider.client_secret:
        form["client_secret"] = secret
    response = call("POST", metadata(provider).token_endpoint, data=form)
    if response.status_code != 200:
        raise _refused(response)
    return _json(response)


def userinfo(provider: IdentityProvider, access_token: str) -> Any:
    """Fetch the JSON that the userinfo endpoint returns, unchecked; None if there is no such endpoint or no JSON.

    Raises ``ProviderUnavailable``.
    """
    url = metadata(provider).userinfo_endpoint
    if not url or not access_token:
        return None
    response = call("GET", url, headers={"Authorization": f"Bearer {access_token}"})
    is_json = response.headers.get("content-type", "").startswith("application/json")
    if response.status_code != 200 or not is_json:
        return None
    try:
        return response.json()
    except ValueError:
        return None


def _refused(response: httpx2.Response) -> ProviderRefused:
    try:
        body = response.json()
    except ValueError:
        body = None
    fields = body if isinstance(body, dict) else {}
    code = str(fields.get("error") or f"HTTP {response.status_code}")[:80]
    return ProviderRefused(code, str(fields.get("error_description") or "")[:200])


def _json(response: httpx2.Response) -> dict[str, Any]:
    if response.status_code != 200:
        raise ProviderUnavailable(f"HTTP {response.status_code}")
    try:
        body = response.json()
    except ValueError as error:
        raise ProviderUnavailable("an answer that is not JSON") from error
    if not isinstance(body, dict):
        raise ProviderUnavailable("an answer that is not a JSON object")
    return body
