"""An OpenID Connect provider, its row, and a browser that signs in with it."""

from urllib.parse import urlencode, urlsplit

import pytest
from django.test import Client

from accounts.models import IdentityProvider
from accounts.oidc import providers
from tests.fakes.oidc_provider import OidcProvider


@pytest.fixture(scope="session")
def _running_provider():
    with OidcProvider() as running:
        yield running


@pytest.fixture
def oidc(_running_provider):
    """The running provider, reset to its initial state."""
    running = _running_provider
    running.people.clear()
    running.sessions.clear()
    running.codes.clear()
    running.counts.clear()
    running.access_seconds, running.is_down, running.slowness, running.refresh_error = (
        300,
        False,
        0.0,
        "",
    )
    running.bend = lambda claims: None
    running.client_methods = ("client_secret_basic", "client_secret_post")
    running.userinfo = {}
    running.client_secret = "client-secret"
    running.keys = running.keys[:1]
    providers.clear_caches()
    yield running
    providers.clear_caches()


@pytest.fixture
def provider(oidc, db):
    """The row of the provider."""
    return create_provider(oidc)


def create_provider(oidc, **fields):
    """Store a row for the running provider; ``fields`` override the defaults."""
    row = IdentityProvider(
        **(
            {
                "slug": "acme",
                "name": "Acme",
                "kind": "keycloak",
                "issuer": oidc.issuer,
                "client_id": oidc.client_id,
                "bearer_clients": ["cli"],
            }
            | fields
        )
    )
    row.client_secret = oidc.client_secret
    row.save()
    return row


class Browser:
    """A browser whose sign-in with a provider a test can interrupt between two steps."""

    def __init__(self, oidc, slug="acme"):
        self.client, self.oidc, self.slug = Client(), oidc, slug
        self.callback = (
            "/oauth/keycloak/callback" if slug == "keycloak" else f"/oidc/{slug}/callback"
        )

    def start(self, target=""):
        """Start a sign-in and return the address at the provider."""
        query = f"?{urlencode({'next': target})}" if target else ""
        response = self.client.get(f"/oidc/{self.slug}/sign-in{query}")
        assert response.status_code == 302, response.content
        return response.headers["Location"]

    def sign_in(self, person, target=""):
        """Sign in and return the response to the callback."""
        return self.finish(self.oidc.authorize(self.start(target), person))

    def finish(self, answer):
        """Request the callback with the provider's answer."""
        return self.client.get(self.callback, answer)

    @property
    def is_signed_in(self):
        return self.client.get("/api/v1/users/me").status_code == 200


def redirect_path(response):
    """Return the path and query of a redirect."""
    parts = urlsplit(response.headers["Location"])
    return parts.path + (f"?{parts.query}" if parts.query else "")


@pytest.fixture
def browser(oidc, provider):
    return Browser(oidc)
