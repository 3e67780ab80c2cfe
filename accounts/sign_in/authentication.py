"""Authentication of requests and sockets: session cookies, API keys, access tokens, e-mail and password."""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, cast

from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, parse_cookie
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from accounts import limits, services
from accounts.models import ApiKey, User
from accounts.oidc import providers, tokens
from accounts.services import access_tokens, sessions
from accounts.sign_in import browser_sessions
from lib.problems import Problem

log = logging.getLogger(__name__)


class EmailBackend(ModelBackend):
    """Authentication of local accounts by e-mail address (case-insensitive) and password."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> User | None:
        email = username or kwargs.get("email")
        if not email or password is None:
            return None
        user = User.objects.find_for_sign_in(email)
        if user is None:
            # Hash anyway: a faster response would reveal that no user has this address.
            User().set_password(password)
            return None
        return user if user.check_password(password) and self.user_can_authenticate(user) else None

    def get_user(self, user_id: Any) -> User | None:
        """Return the user of a session, or None for a suspended user. Django calls this on every request."""
        return sessions.find_session_user(user_id)


def count_sign_in(request: HttpRequest, email: str) -> None:
    """Count one attempt to sign in with an e-mail address. Call this before the password check.

    Several spellings of an address sign in the same user, so count the user who is found. Not safe to repeat: every
    call counts. Raise ``TooManyAttempts`` or ``AttemptsNotCounted``.
    """
    user = User.objects.find_for_sign_in(email)
    limits.check_sign_in(request, str(user.pk) if user else email)


class SessionAuthentication(authentication.SessionAuthentication):
    """Authentication by the session cookie of the pages, with a CSRF check.

    DRF responds with 401 instead of 403 to a request without authentication, because this class defines a
    ``WWW-Authenticate`` header.
    """

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class RememberedAuthentication(authentication.BaseAuthentication):
    """The base class of authentications by a key or token, which keeps the result for the length of a request.

    The rate limits ask for the caller before the view does. Without this class, the credential would be checked twice.
    Subclasses implement ``check`` with the meaning of DRF's ``authenticate``, but with Django's request.
    """

    def check(self, request: HttpRequest) -> tuple[User, Any] | None:
        raise NotImplementedError

    def authenticate(self, request: Request) -> tuple[User, Any] | None:
        return self.check_once(request._request)  # noqa: SLF001

    def check_once(self, request: HttpRequest) -> tuple[User, Any] | None:
        """Return the result of ``check``, or raise its exception. The second call returns the first result."""
        results: dict[type, Any] = vars(request).setdefault("authentication_results", {})
        kind = type(self)
        if kind not in results:
            try:
                results[kind] = self.check(request), None
            except (exceptions.APIException, Problem) as error:
                results[kind] = None, error
        result, refusal = results[kind]
        if refusal is not None:
            raise refusal
        return cast("tuple[User, Any] | None", result)


def find_caller(request: HttpRequest, view: Callable[..., Any]) -> User | None:
    """Return the user whom a view will authenticate, or None if the request has no valid credential.

    The view's own authentication classes decide in their order, so that a header that the view ignores has no effect.
    A view without such classes is a page, which reads the session cookie. The CSRF token is not checked here.
    """
    authenticators = _authenticators_of(view)
    if authenticators is None:
        return _session_user(request)
    for authenticator in authenticators:
        if isinstance(authenticator, SessionAuthentication):
            if user := _session_user(request):
                return user
            continue
        try:
            if isinstance(authenticator, RememberedAuthentication):
                result = authenticator.check_once(request)
            else:
                result = authenticator.authenticate(Request(request))
        except (exceptions.APIException, Problem):
            return None
        if result is not None:
            caller: User = result[0]
            return caller
    return None


@cache
def _authenticators_of(
    view: Callable[..., Any],
) -> tuple[authentication.BaseAuthentication, ...] | None:
    """Return the authentications of a view in their order, or None for a page. They keep nothing between requests."""
    view_class = getattr(view, "cls", None)
    if view_class is None:
        return None
    return tuple(view_class(**getattr(view, "initkwargs", {})).get_authenticators())


def _session_user(request: HttpRequest) -> User | None:
    user = getattr(request, "user", None)
    return cast("User", user) if user is not None and user.is_authenticated else None


class ApiKeyAuthentication(RememberedAuthentication):
    """Authentication by API key: ``Authorization: Bearer oh_<key>.<secret>`` or ``X-API-Key: oh_<key>.<secret>``."""

    def check(self, request: HttpRequest) -> tuple[User, ApiKey] | None:
        token = read_bearer_token_of(request)
        if not token:
            return None
        try:
            key = services.authenticate_api_key(token, address=limits.client_address(request))
        except services.InvalidKey as error:
            raise exceptions.AuthenticationFailed(error.detail) from error
        return key.user, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class AccessTokenAuthentication(RememberedAuthentication):
    """Authentication by an access token of an identity provider: ``Authorization: Bearer <JWT>``.

    The request has all permissions of the user's roles and, unlike an API key, is not bound to an organization.
    """

    def check(self, request: HttpRequest) -> tuple[User, dict[str, Any]] | None:
        token = read_bearer_token_of(request)
        # A JWT has three parts separated by dots. Other tokens are left to the other authentication classes.
        if token.startswith("oh_") or token.count(".") != 2:
            return None
        try:
            return access_tokens.authenticate_access_token(token)
        except tokens.BadToken as error:
            log.info("rejected an access token: %s", error)
            raise exceptions.AuthenticationFailed(
                "This access token is not valid. Request a new token from the identity provider."
            ) from error
        except providers.ProviderUnavailable as error:
            raise ProviderUnreachable(retry_after=10) from error

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class ProviderUnreachable(Problem):
    """The token cannot be checked: the identity provider does not respond, and its keys are not cached."""

    status = 503
    code = "provider-away"
    sentence = "The token cannot be checked because the identity provider does not respond. Try again in a few seconds."


def authenticate_scope(scope: dict[str, Any]) -> User | AnonymousUser:
    """Return the user of a socket, from the API key or access token in the ASGI scope, else from the session cookie.

    Return an anonymous user if the credential is not valid. Call this function again while the socket is open, to
    detect revoked keys, ended sessions and changed passwords.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    if token := read_bearer_token(
        {
            "Authorization": headers.get("authorization", ""),
            "X-API-Key": headers.get("x-api-key", ""),
        }
    ):
        try:
            if not token.startswith("oh_") and token.count(".") == 2:
                return access_tokens.authenticate_access_token(token)[0]
            address = (scope.get("client") or ("", 0))[0]
            return services.authenticate_api_key(token, address=address).user
        except (services.InvalidKey, tokens.BadToken, providers.ProviderUnavailable):
            return AnonymousUser()
    request = HttpRequest()
    cookies = parse_cookie(headers.get("cookie", ""))
    engine = import_module(settings.SESSION_ENGINE)
    request.session = engine.SessionStore(cookies.get(settings.SESSION_COOKIE_NAME))
    return browser_sessions.get_session_user(request)


def read_bearer_token(headers: Mapping[str, str]) -> str:
    """Return the token in the header ``Authorization: Bearer``, else in ``X-API-Key``, else an empty string."""
    return _read_token(headers.get("Authorization", ""), headers.get("X-API-Key", ""))


def read_bearer_token_of(request: HttpRequest) -> str:
    """Return the token of a request as ``read_bearer_token`` does, without a copy of all headers."""
    meta = request.META
    return _read_token(meta.get("HTTP_AUTHORIZATION", ""), meta.get("HTTP_X_API_KEY", ""))


def _read_token(authorization: str, api_key: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else api_key.strip()
