"""Descriptions of the authentication methods for the OpenAPI document."""

from typing import Any

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """Authentication by an API key as a bearer token."""

    target_class = "accounts.sign_in.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, `oh_<key id>.<secret>`. The header `X-API-Key` can contain the key instead.",
        }


class SessionScheme(OpenApiAuthenticationExtension):
    """Authentication by the session cookie of the pages."""

    target_class = "accounts.sign_in.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": settings.SESSION_COOKIE_NAME.removeprefix("__Host-"),
            "description": "The session cookie of the pages. Requests that change data also need the header "
            "`X-XSRF-TOKEN`. Under HTTPS, the name of the cookie begins with `__Host-`.",
        }


class AccessTokenScheme(OpenApiAuthenticationExtension):
    """Authentication by an access token of an identity provider."""

    target_class = "accounts.sign_in.authentication.AccessTokenAuthentication"
    name = "accessToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "An access token of a configured identity provider (for example Keycloak).",
        }


class SessionWithoutTokenScheme(SessionScheme):
    """Authentication by the session cookie without a CSRF token, for routes that change nothing."""

    target_class = "compat.accounts.views.WithoutCsrf"
    name = "sessionAlone"
