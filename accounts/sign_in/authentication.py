"""How a request says who it is: the session cookie, an API key, an e-mail and password."""

import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, parse_cookie
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from accounts import limits, services
from accounts.models import ApiKey, User
from accounts.oidc import providers, tokens
from accounts.services import access_tokens
from accounts.sign_in import session_gate
from lib.problems import Problem

log = logging.getLogger(__name__)


class EmailBackend(ModelBackend):
    """Local accounts by e-mail, in any case, and password."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> User | None:
        email = username or kwargs.get("email")
        if not email or password is None or "\0" in email:
            return None
        user = User.objects.filter(email__iexact=email).first()
        if user is None:
            User().set_password(password)  # the same time as for somebody who exists
            return None
        return user if user.check_password(password) and self.user_can_authenticate(user) else None


class SessionAuthentication(authentication.SessionAuthentication):
    """The cookie of the pages, with CSRF; callers without one get 401, not 403."""

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class ApiKeyAuthentication(authentication.BaseAuthentication):
    """``Authorization: Bearer oh_<key>.<secret>`` or ``X-API-Key``."""

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        token = bearer_token(request.headers)
        if not token:
            return None
        try:
            key = services.authenticate_api_key(
                token,
                address=limits.client_address(request._request),  # noqa: SLF001
            )
        except services.InvalidKey as error:
            raise exceptions.AuthenticationFailed(error.detail) from error
        return key.user, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class AccessTokenAuthentication(authentication.BaseAuthentication):
    """``Authorization: Bearer <JWT>``: an access token of an identity provider.

    Its user has what their role gives and no more; it is bound to no organization.
    """

    def authenticate(self, request: Request) -> tuple[User, dict[str, Any]] | None:
        token = bearer_token(request.headers)
        if token.startswith("oh_") or token.count(".") != 2:
            return None
        try:
            return access_tokens.authenticate_access_token(token)
        except tokens.BadToken as error:
            log.info("an access token is not believed: %s", error)
            raise exceptions.AuthenticationFailed("This access token is not valid.") from error
        except providers.ProviderUnavailable as error:
            raise ProviderAway(retry_after=10) from error

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class ProviderAway(Problem):
    """The provider's keys have not been seen yet, and it does not answer."""

    status = 503
    code = "provider-away"
    sentence = "The identity provider does not answer, so this token cannot be checked. Try again."


def user_of_scope(scope: dict[str, Any]) -> User | AnonymousUser:
    """Who opened a socket, as of now: by API key in a header, else by the session cookie.

    Asked again while the socket is open, so a revoked key, an ended session or a changed password count.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    if token := bearer_token(
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
    return session_gate.user_of(request)


def bearer_token(headers: Mapping[str, str]) -> str:
    """The token of a request's ``Authorization: Bearer`` or ``X-API-Key`` header, or nothing."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return headers.get("X-API-Key", "").strip()
