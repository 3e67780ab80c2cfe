"""Requests to identity providers, with cached endpoints (discovery document) and signing keys (JWKS).

Each process has its own two caches. They keep the last valid response, so that tokens can still be checked while a
provider is unreachable.
"""

import base64
import logging
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote_plus

import httpx2
import jwt
from django.conf import settings

from accounts.models import IdentityProvider
from lib import crypto, http

log = logging.getLogger(__name__)

T = TypeVar("T")
METADATA_SECONDS = 3_600.0
KEYS_SECONDS = 600.0
REFETCH_PAUSE_SECONDS = 10.0
"""The shortest time between two fetches of the keys.

Any client can send tokens with unknown key ids. Without a pause, each of them would cause a request to the provider.
"""
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
SECRET_METHODS = ("client_secret_basic", "client_secret_post")
"""The supported ways to send the client secret, in the order in which we try them."""
ANNOUNCED_METHODS = (*SECRET_METHODS, "client_secret_jwt", "none")
"""All supported methods (OpenID Connect Core, section 9). The last two are tried only where they are announced."""
ASSERTION_SECONDS = 60
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class ProviderUnavailable(Exception):
    """The provider did not respond, or its response cannot be used. A later request may succeed."""


class ProviderMisconfigured(ProviderUnavailable):
    """The provider responded, but it and this server are not configured for each other. Another try does not help.

    The message is for operators.
    """


class ProviderRefused(Exception):
    """The provider responded with an OAuth error. ``code`` is the value of its ``error`` field."""

    def __init__(self, code: str, description: str = "") -> None:
        self.code, self.description = code, description
        super().__init__(f"{code}: {description}" if description else code)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The values that we use from a provider's discovery document. Optional endpoints may be empty.

    ``client_methods`` are the announced ``token_endpoint_auth_methods_supported``, or None if there are none.
    """

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    client_methods: tuple[str, ...] | None = None


URLS = (*ENDPOINTS, "userinfo_endpoint", "end_session_endpoint")


@dataclass(slots=True)
class _Cached(Generic[T]):
    value: T
    fetched_at: float


_lock = threading.Lock()
_metadata: dict[str, _Cached[Metadata]] = {}
_keys: dict[str, _Cached[list[jwt.PyJWK]]] = {}
_accepted_methods: dict[tuple[str, str], str] = {}
"""The client authentication method that worked last, by issuer and client id."""


def clear_caches() -> None:
    """Empty the caches of this process. Safe to repeat."""
    with _lock:
        _metadata.clear()
        _keys.clear()
        _accepted_methods.clear()


def get_metadata(provider: IdentityProvider) -> Metadata:
    """Return the provider's endpoints, cached for an hour.

    While the provider is unreachable, return the cached endpoints whatever their age. Raise
    ``ProviderUnavailable`` if nothing is cached.
    """
    cached = _metadata.get(provider.issuer)
    if cached and time.monotonic() - cached.fetched_at < METADATA_SECONDS:
        return cached.value
    try:
        fresh = _discover(provider)
    except ProviderUnavailable:
        if cached:
            return cached.value
        raise
    with _lock:
        _metadata[provider.issuer] = _Cached(fresh, time.monotonic())
    return fresh


def _discover(provider: IdentityProvider) -> Metadata:
    url = provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
    document = _json(send_request("GET", url))
    # Discovery 4.3 requires the exact issuer, so that one provider cannot impersonate another.
    if document.get("issuer") != provider.issuer:
        raise ProviderUnavailable("the discovery document names another issuer")
    fields = {name: document.get(name) or "" for name in URLS}
    # Plain HTTP is for providers on a development machine: there the issuer itself is an http:// URL.
    is_http_allowed = provider.issuer.startswith("http://")
    schemes = ("https://", "http://") if is_http_allowed else ("https://",)
    for name, value in fields.items():
        is_missing = name in ENDPOINTS and not value
        if is_missing or (value and not str(value).startswith(schemes)):
            raise ProviderUnavailable(f"the discovery document has no usable {name}")
    methods = document.get("token_endpoint_auth_methods_supported")
    methods = methods if isinstance(methods, list) else [methods]
    texts = tuple(method for method in methods if isinstance(method, str))
    return Metadata(**fields, client_methods=texts or None)


def get_signing_key(provider: IdentityProvider, *, key_id: str | None) -> jwt.PyJWK:
    """Return the provider's public key with the id ``key_id``. The keys are cached for ten minutes.

    Without an id, return the provider's only key. Raise ``KeyError`` if the provider has no such key, and
    ``ProviderUnavailable`` if no keys are cached and none can be fetched.
    """
    cached = _keys.get(provider.issuer)
    age = time.monotonic() - cached.fetched_at if cached else KEYS_SECONDS
    if cached is None or age >= KEYS_SECONDS:
        cached = _fetch_keys(provider, cached)
    key = _select_key(cached.value, key_id)
    # Providers rotate their keys: an unknown id may belong to a key that is newer than the cached keys.
    if key is None and time.monotonic() - cached.fetched_at >= REFETCH_PAUSE_SECONDS:
        key = _select_key(_fetch_keys(provider, cached).value, key_id)
    if key is None:
        raise KeyError("the provider has no such key")
    return key


def _fetch_keys(
    provider: IdentityProvider, cached: _Cached[list[jwt.PyJWK]] | None
) -> _Cached[list[jwt.PyJWK]]:
    try:
        keys = _parse_keys(_json(send_request("GET", get_metadata(provider).jwks_uri)))
    except ProviderUnavailable:
        if cached is None:
            raise
        # Store the old keys as fresh, so that the next requests do not wait for a timeout too, until the keys are old
        # again.
        keys = cached.value
    fresh = _Cached(keys, time.monotonic())
    with _lock:
        _keys[provider.issuer] = fresh
    return fresh


def _parse_keys(document: dict[str, Any]) -> list[jwt.PyJWK]:
    entries = document.get("keys")
    # Without this, a broken response would replace the cached keys, and no token would be valid.
    if not isinstance(entries, list):
        raise ProviderUnavailable("the key set contains no list of keys")
    return [key for key in map(_parse_key, entries) if key is not None]


def _parse_key(entry: Any) -> jwt.PyJWK | None:
    """Return a public signing key. Return None for encryption keys, symmetric keys and unknown key types."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    try:
        return jwt.PyJWK(entry)
    except (jwt.PyJWTError, KeyError, ValueError, TypeError):
        return None


def _select_key(keys: list[jwt.PyJWK], key_id: str | None) -> jwt.PyJWK | None:
    if key_id is None:
        return keys[0] if len(keys) == 1 else None
    return next((key for key in keys if key.key_id == key_id), None)


def send_request(method: str, url: str, **request: Any) -> httpx2.Response:
    """Send a request to a provider and return the response.

    Raise ``ProviderUnavailable`` if there is no response, or if the status of the response is 5xx or 429.
    """
    try:
        # Not guarded against internal addresses: staff configure providers, often on an internal network.
        with http.client(seconds=settings.OIDC_TIMEOUT_SECONDS, guarded=False) as client:
            response = client.request(method, url, **request)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise ProviderUnavailable(type(error).__name__) from error
    if response.status_code >= 500 or response.status_code == 429:
        raise ProviderUnavailable(f"HTTP {response.status_code}")
    return response


def request_tokens(provider: IdentityProvider, **form: str) -> dict[str, Any]:
    """Send a form with our client id and secret to the token endpoint; return the JSON object of the response.

    Raise ``ProviderRefused`` if the response is an OAuth error, and ``ProviderUnavailable`` if there is no usable
    response.
    """
    response = send_as_client(provider, get_metadata(provider).token_endpoint, form)
    if response.status_code != 200:
        raise _parse_refusal(response)
    return _json(response)


def client_methods(provider: IdentityProvider) -> tuple[str, ...]:
    """Return the ways in which we authenticate at the provider's token endpoint, in the order in which we try them.

    A provider that announces no methods supports ``client_secret_basic`` (OpenID Connect Discovery 1.0, section 3), but
    some of them want the secret in the form. Raise ``ProviderMisconfigured`` if we support no announced method.
    """
    if not _read_client_secret(provider):
        return ("none",)
    announced = get_metadata(provider).client_methods
    methods = tuple(m for m in ANNOUNCED_METHODS if m in (announced or SECRET_METHODS))
    if not methods:
        raise ProviderMisconfigured(
            f"its token endpoint accepts only {', '.join(announced or ())}, and this server supports "
            f"{', '.join(ANNOUNCED_METHODS)}"
        )
    # The client may be registered for one of the announced methods only.
    known = _accepted_methods.get((provider.issuer, provider.client_id))
    return tuple(sorted(methods, key=lambda method: method != known))


def _read_client_secret(provider: IdentityProvider) -> str:
    """Return the client secret, or "" if there is none. Raise ``ProviderUnavailable`` if it cannot be decrypted."""
    try:
        return provider.client_secret or ""
    except crypto.Undecryptable as error:
        log.error("Sign-in with the provider %s is impossible: %s", provider.slug, error)  # noqa: TRY400
        raise ProviderUnavailable(error.detail) from error


def send_as_client(provider: IdentityProvider, url: str, form: dict[str, str]) -> httpx2.Response:
    """Send a form to an endpoint of the provider that authenticates clients, and return the response.

    If the provider refuses the client, try the next method of ``client_methods``, and return the first response if all
    are refused. A request with a refused client has no effect, so the code or refresh token in the form still works.
    Raise ``ProviderUnavailable``.
    """
    refused: httpx2.Response | None = None
    for method in client_methods(provider):
        response = send_request("POST", url, **_authenticate_client(provider, method, form))
        if not _is_client_refused(response):
            with _lock:
                _accepted_methods[provider.issuer, provider.client_id] = method
            return response
        refused = refused or response
    assert refused is not None  # client_methods returns at least one method
    return refused


def _authenticate_client(
    provider: IdentityProvider, method: str, form: dict[str, str]
) -> dict[str, Any]:
    """Return the form and headers of a request that authenticates this server as a client (RFC 6749, section 2.3)."""
    client_id, secret = provider.client_id, _read_client_secret(provider)
    if method == "client_secret_basic":
        # Section 2.3.1: both parts are form-encoded first, so that the secret may contain any character.
        pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
        basic = base64.b64encode(pair.encode()).decode()
        return {"data": form, "headers": {"Authorization": f"Basic {basic}"}}
    sent = {"client_id": client_id}
    if method == "client_secret_jwt":
        assertion = _sign_assertion(provider, secret)
        sent |= {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
    elif method == "client_secret_post":
        sent |= {"client_secret": secret}
    return {"data": form | sent}


def _sign_assertion(provider: IdentityProvider, secret: str) -> str:
    """Return a JWT that proves to the provider that we have the client secret (RFC 7523, section 3)."""
    now = int(time.time())
    claims = {
        "iss": provider.client_id,
        "sub": provider.client_id,
        "aud": get_metadata(provider).token_endpoint,
        "jti": uuid.uuid4().hex,
        "iat": now,
        "exp": now + ASSERTION_SECONDS,
    }
    return jwt.encode(claims, secret, algorithm="HS256")


def _is_client_refused(response: httpx2.Response) -> bool:
    if response.status_code not in (400, 401):
        return False
    code = _parse_refusal(response).code
    # RFC 6749, section 5.2, names the code invalid_client. Some providers send a 401 with another code, but with
    # invalid_grant they have accepted the client.
    return code == "invalid_client" or (response.status_code == 401 and code != "invalid_grant")


def fetch_userinfo(provider: IdentityProvider, access_token: str) -> Any:
    """Return the JSON value that the userinfo endpoint sends, without validating it.

    Return None if the provider has no such endpoint or does not respond with JSON. Raise ``ProviderUnavailable`` if the
    provider does not respond.
    """
    url = get_metadata(provider).userinfo_endpoint
    if not url or not access_token:
        return None
    response = send_request("GET", url, headers={"Authorization": f"Bearer {access_token}"})
    # Some providers respond with a signed JWT (application/jwt), which we did not ask for.
    is_json = response.headers.get("content-type", "").startswith("application/json")
    if response.status_code != 200 or not is_json:
        return None
    try:
        return response.json()
    except ValueError:
        return None


def _parse_refusal(response: httpx2.Response) -> ProviderRefused:
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
        raise ProviderUnavailable("the response is not JSON") from error
    if not isinstance(body, dict):
        raise ProviderUnavailable("the response is not a JSON object")
    return body
