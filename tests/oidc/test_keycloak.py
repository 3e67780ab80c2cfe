"""Sign-in, refresh and sign-out with a provider, in a real browser at a running server.

The tests run twice: with a real Keycloak (skipped if Keycloak cannot be installed) and with the embedded provider.
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
from playwright.sync_api import expect, sync_playwright
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests import prepare
from tests.fakes.keycloak import Keycloak, free_port
from tests.fakes.oidc_provider import OidcProvider
from tests.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(500)]
expect.set_options(timeout=60_000)
_RULES = """\
import django
django.setup()
from django.core.management import call_command
call_command("migrate", interactive=False, verbosity=0)
from accounts.models import IdentityProvider, Organization
from accounts.services import identity_providers
team = Organization.objects.create(name="The team")
rule = {"claim": "realm_access.roles", "value": "team-admins", "organization": str(team.pk), "role": "admin"}
identity_providers.find_provider(slug="keycloak")
IdentityProvider.objects.update(claim_rules=[rule])
"""


class Double(OidcProvider):
    """The embedded provider with the users of the realm and the acts of its administrator."""

    is_real = False

    def __init__(self, *, app_url):
        super().__init__(client_id="agent-server", realm="agents")
        self.access_seconds = Keycloak.access_seconds
        self.back_channel_url = f"{app_url}/oidc/keycloak/back-channel-logout"
        for name, roles in (("ana", ["team-admins"]), ("ben", []), ("dora", [])):
            self.add_person(name, password=f"{name}-password", roles=roles, enabled=name != "dora")

    def set_enabled(self, name, *, enabled):
        self.people[name].enabled = enabled

    def end_sessions(self, name):
        for sid in [s.sid for s in self.sessions.values() if s.person.username == name]:
            self.end_session(sid)

    def access_token_of(self, name):
        return self.access_token(self.people[name])

    def session_count(self, name):
        return sum(s.person.username == name for s in self.sessions.values())


class App:
    """The web role in its own process with its own database."""

    def __init__(self, url, database_url):
        self.url, self.database_url = url, database_url

    @contextlib.contextmanager
    def running(self, realm):
        """Run the web process with the provider of the realm until the block ends."""
        environment = os.environ | {
            "DATABASE_URL": self.database_url,
            "PUBLIC_URL": self.url,
            "ALLOWED_HOSTS": "127.0.0.1",
            "KEYCLOAK_ISSUER": realm.issuer,
            "KEYCLOAK_CLIENT_ID": realm.client_id,
            "KEYCLOAK_CLIENT_SECRET": realm.client_secret,
            "KEYCLOAK_BEARER_CLIENTS": "cli",
            "PYTHONPATH": str(prepare.ROOT),
        }
        subprocess.run(
            [sys.executable, "-c", _RULES],
            env=environment,
            cwd=prepare.ROOT,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        command = [sys.executable, "manage.py", "run_web", "--port", str(urlsplit(self.url).port)]
        process = subprocess.Popen(
            command, env=environment, cwd=prepare.ROOT, stdin=subprocess.DEVNULL
        )
        try:

            def is_alive():
                assert process.poll() is None, "the web process ended"
                with contextlib.suppress(httpx2.TransportError):
                    return httpx2.get(f"{self.url}/alive", trust_env=False).status_code == 200

            wait_until(is_alive, "the web process to respond", seconds=60, pause=0.2)
            yield self
        finally:
            process.kill()
            process.wait()

    def run_query(self, query):
        with psycopg.connect(self.database_url) as database:
            return database.execute(query).fetchall()


@pytest.fixture(
    scope="module",
    params=[pytest.param("keycloak", marks=[pytest.mark.keycloak, pytest.mark.slow]), "double"],
)
def world(request):
    """The running server and the realm of its provider."""
    url = f"http://127.0.0.1:{free_port()}"
    kind = Keycloak if request.param == "keycloak" else Double
    if kind is Double and prepare.explain_missing_keycloak():
        print(
            f"\nNo real Keycloak ({prepare.explain_missing_keycloak()}): these journeys ran on the embedded provider only."
        )
    started = time.monotonic()
    with kind(app_url=url) as realm, database() as database_url:
        print(
            f'\n{{"provider": "{request.param}", "ready_seconds": {time.monotonic() - started:.1f}}}'
        )
        app = App(url, database_url)
        with app.running(realm):
            yield app, realm


@contextlib.contextmanager
def database():
    """Create an empty database; another process cannot see rows in the transactions of the test database."""
    name = f"oidc_{secrets.token_hex(4)}"
    address = os.environ["DATABASE_URL"]
    head, _, query = address.partition("?")
    with psycopg.connect(address, autocommit=True) as server:
        server.execute(f"create database {name}")
        try:
            yield f"{head.rpartition('/')[0]}/{name}?{query}"
        finally:
            server.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=prepare.chromium(), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    context = chromium.new_context()
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


def submit_password(page, app, name):
    page.goto(f"{app.url}/sign-in?next=/settings/sign-in")
    page.get_by_role("link", name="Sign in with Keycloak").click()
    page.locator("#username").fill(name)
    page.locator("#password").fill(f"{name}-password")
    page.locator("#kc-login").click()


def sign_in(page, app, name):
    submit_password(page, app, name)
    page.wait_for_url(f"{app.url}/settings/sign-in")
    return page.context


def get_me(context, app):
    """Return the user of the browser, or the status if the request was refused."""
    answer = context.request.get(f"{app.url}/api/v1/users/me")
    return answer.json() if answer.status == 200 else answer.status


def cookie_header(context, app):
    return "; ".join(f"{c['name']}={c['value']}" for c in context.cookies(app.url))


def read_close_code(socket):
    """Read a socket until the server closes it, and return the close code."""
    try:
        while True:
            socket.recv(timeout=20)
    except ConnectionClosed as closed:
        return closed.rcvd.code


def test_sign_in_grants_the_role_of_the_realm_role(world, page):
    app, _ = world

    user = get_me(sign_in(page, app, "ana"), app)

    assert user["email"] == "ana@example.org"
    assert {o["name"]: o["role"] for o in user["organizations"]}["The team"] == "admin"
    assert get_me(page.context, app) == user
    assert not [c for c in page.context.cookies(app.url) if "ey" in c["value"][:3]], (
        "no token reaches the browser"
    )


def test_requests_after_the_access_token_expired_refresh_it_once(world, page):
    app, realm = world
    context = sign_in(page, app, "ana")
    newest = "select generation from accounts_providersession order by created_at desc limit 1"
    assert app.run_query(newest) == [(1,)]

    for expected in (2, 3):
        time.sleep(realm.access_seconds + 1)
        assert [isinstance(get_me(context, app), dict) for _ in range(5)] == [True] * 5
        assert app.run_query(newest) == [(expected,)]


def test_back_channel_logout_closes_an_open_socket_with_4403(world, page):
    app, realm = world
    context = sign_in(page, app, "ana")
    headers = {"Authorization": f"Bearer {realm.access_token_of('ana')}"}
    created = httpx2.post(
        f"{app.url}/api/v1/conversations", json={"title": "x"}, headers=headers, trust_env=False
    )
    assert created.status_code == 201, created.text
    address = f"{app.url.replace('http', 'ws', 1)}/ws/v1/conversations/{created.json()['id']}"
    with connect(
        address, origin=app.url, additional_headers={"Cookie": cookie_header(context, app)}
    ) as socket:
        assert json.loads(socket.recv(timeout=20))["type"] == "status"
        time.sleep(1)
        started = time.monotonic()
        realm.end_sessions("ana")
        provider_seconds = time.monotonic() - started
        code = read_close_code(socket)
        seconds = time.monotonic() - started

    kind = "keycloak" if realm.is_real else "double"
    print(
        f'\n{{"test": "back-channel logout", "provider": "{kind}", "provider_seconds": {provider_seconds:.2f}, "socket_closed_seconds": {seconds:.2f}}}'
    )
    assert code == 4403
    assert seconds - provider_seconds < 5  # The rest is the time the provider needs to notify us.
    assert get_me(context, app) == 401


def test_sign_out_here_ends_the_session_at_the_provider(world, page):
    app, realm = world
    context = sign_in(page, app, "ben")
    assert realm.session_count("ben") == 1
    page.goto(f"{app.url}/settings")

    page.get_by_role("button", name="Sign out of this browser").click()

    page.wait_for_url(f"{app.url}/sign-in*")
    assert get_me(context, app) == 401
    assert realm.session_count("ben") == 0


def test_disabled_user_cannot_sign_in(world, page):
    app, _ = world
    submit_password(page, app, "dora")

    expect(
        page.locator("#input-error, .kc-feedback-text, .pf-v5-c-alert, .alert-error").first
    ).to_be_visible()

    assert get_me(page.context, app) == 401


def test_user_disabled_after_the_sign_in_is_signed_out_at_the_next_refresh(world, page):
    app, realm = world
    context = sign_in(page, app, "ben")
    try:
        realm.set_enabled("ben", enabled=False)
        time.sleep(realm.access_seconds + 1)
        assert get_me(context, app) == 401
    finally:
        realm.set_enabled("ben", enabled=True)


@pytest.mark.slow
def test_access_token_works_until_it_expires_and_not_with_a_changed_signature(world):
    app, realm = world
    token = realm.access_token_of("ana")

    def status(bearer):
        return httpx2.get(
            f"{app.url}/api/v1/users/me",
            headers={"Authorization": f"Bearer {bearer}"},
            trust_env=False,
        ).status_code

    assert status(token) == 200
    head, body, signature = token.split(".")
    assert status(f"{head}.{body}.{signature[::-1]}") == 401
    time.sleep(realm.access_seconds + 31)  # The token's lifetime and the leeway for clocks.
    assert status(token) == 401
