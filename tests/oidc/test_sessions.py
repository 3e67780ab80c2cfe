"""The list of sessions, and the end of a session by the user, the provider or an administrator."""

import pytest
from django.test import Client

from accounts import services
from accounts.models import UserSession
from accounts.services import sessions
from lib import bus
from tests.conftest import key_client
from tests.oidc.conftest import Browser


@pytest.fixture
def nudges(monkeypatch, django_capture_on_commit_callbacks):
    """The nudges sent, as ``(group, type)``."""
    sent = []
    monkeypatch.setattr(
        bus.publisher,
        "nudge",
        lambda group, wakeup: sent.append((group, bus.encode(wakeup)["type"])),
    )
    return sent


def open_session(user, **extra):
    client = Client(**extra)
    client.force_login(user)
    return client


def is_signed_in(client):
    return client.get("/api/v1/users/me").status_code == 200


def send(client, method, path):
    return client.generic(method, path)


def test_list_has_the_browser_the_address_and_the_current_session(alice, charlie):
    client = Client(headers={"User-Agent": "Firefox"})
    assert (
        client.post(
            "/sign-in", {"email": alice.email, "password": "correct horse battery"}
        ).status_code
        == 302
    )
    open_session(alice)
    open_session(charlie)

    items = client.get("/api/v1/sessions").json()["items"]

    assert len(items) == 2
    current = next(item for item in items if item["is_current"])
    assert (current["user_agent"], current["address"]) == ("Firefox", "127.0.0.1")
    assert set(current) == {
        "id",
        "user_agent",
        "address",
        "created_at",
        "last_seen_at",
        "expires_at",
        "is_current",
    }


def test_deleted_session_ends_and_its_sockets_are_nudged(
    alice, nudges, django_capture_on_commit_callbacks
):
    client, other = open_session(alice), open_session(alice)
    listed = client.get("/api/v1/sessions").json()["items"]
    target = next(item for item in listed if not item["is_current"])

    with django_capture_on_commit_callbacks(execute=True):
        assert send(client, "DELETE", f"/api/v1/sessions/{target['id']}").status_code == 204

    assert is_signed_in(client)
    assert not is_signed_in(other)
    assert nudges == [(f"user.{alice.pk.hex}", "access.changed")]
    assert send(client, "DELETE", f"/api/v1/sessions/{target['id']}").status_code == 404


def test_session_of_another_user_is_404(alice, charlie):
    open_session(alice)
    target = UserSession.objects.get(user=alice)

    assert send(open_session(charlie), "DELETE", f"/api/v1/sessions/{target.pk}").status_code == 404
    assert key_client(charlie).get(f"/api/v1/sessions/{target.pk}").status_code == 404
    assert open_session(charlie).post(f"/settings/sessions/{target.pk}/end").status_code == 404


def test_sign_out_everywhere_keeps_the_current_session(alice):
    client, others = open_session(alice), [open_session(alice) for _ in range(3)]

    assert send(client, "POST", "/api/v1/sessions/sign-out-everywhere").json() == {"ended": 3}

    assert is_signed_in(client)
    assert not any(map(is_signed_in, others))
    assert key_client(alice).post("/api/v1/sessions/sign-out-everywhere").json() == {"ended": 1}
    assert not is_signed_in(client)


def test_page_ends_one_session_or_all_others(alice):
    client, other, third = open_session(alice), open_session(alice), open_session(alice)
    page = client.get("/settings/sign-in")
    assert page.content.count(b"/end") == 4
    this = page.context["this_session"]
    target = UserSession.objects.exclude(pk=this.pk).order_by("-created_at").first()

    client.post(f"/settings/sessions/{target.pk}/end")
    assert (is_signed_in(other), is_signed_in(third)) == (True, False)
    client.post(f"/settings/sessions/{this.pk}/end", {"everywhere": "1"})
    assert (is_signed_in(client), is_signed_in(other)) == (True, False)


def test_sign_out_invalidates_a_copied_cookie(alice):
    client = open_session(alice)
    thief = Client()
    thief.cookies["sessionid"] = client.cookies["sessionid"].value
    assert is_signed_in(thief)

    client.post("/sign-out")

    assert not is_signed_in(thief)
    assert UserSession.objects.get().end_reason == "signed out"


def test_second_sign_in_changes_the_id_and_ends_the_first_session(alice):
    client = Client()
    client.get("/sign-in")
    form = {"email": alice.email, "password": "correct horse battery"}
    client.post("/sign-in", form)
    first = client.cookies["sessionid"].value
    client.post("/api/v1/auth/sign-in", form, content_type="application/json")

    assert client.cookies["sessionid"].value != first
    assert UserSession.objects.filter(ended_at=None).count() == 1


def test_new_password_ends_the_sessions_and_nudges_their_sockets(
    alice, nudges, django_capture_on_commit_callbacks
):
    client = open_session(alice)

    with django_capture_on_commit_callbacks(execute=True):
        alice.set_password("another long passphrase")
        alice.save()

    assert not is_signed_in(client)
    assert (f"user.{alice.pk.hex}", "access.changed") in nudges


def test_suspension_ends_sessions_permanently(alice, nudges, django_capture_on_commit_callbacks):
    client = open_session(alice)

    with django_capture_on_commit_callbacks(execute=True):
        services.suspend_user(user=alice)
    assert not is_signed_in(client)
    services.activate_user(user=alice)

    assert not is_signed_in(client)
    assert (f"user.{alice.pk.hex}", "access.changed") in nudges


def test_revocation_of_a_key_nudges_its_sockets(alice, nudges, django_capture_on_commit_callbacks):
    key, _ = services.issue_api_key(user=alice, name="x")

    with django_capture_on_commit_callbacks(execute=True):
        services.revoke_api_key(key=key)

    assert nudges == [(f"user.{alice.pk.hex}", "access.changed")]


def test_session_without_a_row_is_anonymous(alice):
    client = open_session(alice)
    session = client.session
    del session[sessions.SESSION_KEY]
    session.save()

    assert not is_signed_in(client)


def test_session_with_the_row_of_another_user_is_anonymous(alice, charlie):
    client = open_session(alice)
    open_session(charlie)
    session = client.session
    session[sessions.SESSION_KEY] = str(UserSession.objects.get(user=charlie).pk)
    session.save()

    assert not is_signed_in(client)


class TestBackChannel:
    def post(self, **form):
        return Client(enforce_csrf_checks=True).post("/oidc/acme/back-channel-logout", form)

    def test_logout_token_with_a_sid_ends_that_session_only(
        self, browser, oidc, nudges, django_capture_on_commit_callbacks
    ):
        person = oidc.add_person("ana")
        browser.sign_in(person)
        first = next(iter(oidc.sessions))
        other = Browser(oidc)
        other.sign_in(person)

        with django_capture_on_commit_callbacks(execute=True):
            response = self.post(logout_token=oidc.logout_token(sub=person.sub, sid=first))

        assert (response.status_code, response.headers["Cache-Control"].count("no-store")) == (
            200,
            1,
        )
        assert (browser.is_signed_in, other.is_signed_in) == (False, True)
        assert len(nudges) == 1

    def test_logout_token_with_a_sub_ends_all_sessions_of_the_user(self, browser, oidc):
        person = oidc.add_person("ana")
        browser.sign_in(person)
        other = Browser(oidc)
        other.sign_in(person)

        assert self.post(logout_token=oidc.logout_token(sub=person.sub)).status_code == 200

        assert not browser.is_signed_in
        assert not other.is_signed_in

    def test_logout_token_of_an_unknown_sub_ends_no_session(self, browser, oidc, alice):
        browser.sign_in(oidc.add_person("ana"))
        client = open_session(alice)

        assert self.post(logout_token=oidc.logout_token(sub="sub-of-nobody")).status_code == 200

        assert is_signed_in(client)
        assert browser.is_signed_in

    def test_logout_token_ends_the_bearer_tokens_of_the_session(self, browser, oidc, client):
        person = oidc.add_person("ana")
        browser.sign_in(person)
        sid = next(iter(oidc.sessions))
        headers = {"Authorization": f"Bearer {oidc.access_token(person, sid=sid)}"}
        assert client.get("/api/v1/users/me", headers=headers).status_code == 200

        self.post(logout_token=oidc.logout_token(sid=sid))

        assert client.get("/api/v1/users/me", headers=headers).status_code == 401


class TestSignOut:
    def test_sign_out_continues_at_the_provider(self, browser, oidc):
        browser.sign_in(oidc.add_person("ana"))

        page = browser.client.post("/sign-out")

        assert page.context["url"].startswith(
            f"{oidc.issuer}/protocol/openid-connect/logout?id_token_hint="
        )
        assert "post_logout_redirect_uri=http%3A%2F%2Ftestserver%2Fsign-in" in page.context["url"]
        assert not browser.is_signed_in

    def test_sign_out_ends_the_session_while_the_provider_is_unreachable(self, browser, oidc):
        from accounts.oidc import providers

        browser.sign_in(oidc.add_person("ana"))
        oidc.is_down = True
        providers.clear_caches()

        assert browser.client.post("/sign-out").status_code == 302
        assert not browser.is_signed_in


class TestBearer:
    def headers(self, oidc, person, **claims):
        return {"Authorization": f"Bearer {oidc.access_token(person, **claims)}"}

    def test_unknown_user_is_created_only_if_the_provider_creates_users(
        self, oidc, provider, client
    ):
        person = oidc.add_person("ana")

        me = client.get("/api/v1/users/me", headers=self.headers(oidc, person)).json()

        assert me["email"] == "ana@example.org"
        provider.creates_users = False
        provider.save()
        stranger = oidc.add_person("bob")
        assert (
            client.get("/api/v1/users/me", headers=self.headers(oidc, stranger)).status_code == 401
        )
        assert client.get("/api/v1/users/me", headers=self.headers(oidc, person)).status_code == 200

    def test_bearer_request_needs_no_csrf_token(self, oidc, provider):
        client = Client(enforce_csrf_checks=True)

        response = client.post(
            "/api/v1/conversations",
            {"message": "hello"},
            content_type="application/json",
            headers=self.headers(oidc, oidc.add_person("ana")),
        )

        assert response.status_code == 201

    def test_scopes_in_the_token_do_not_extend_the_users_role(self, oidc, provider, client, alice):
        from accounts.models import Identity, Membership, Organization

        person = oidc.add_person("ana")
        client.get("/api/v1/users/me", headers=self.headers(oidc, person))
        team = Organization.objects.create(name="team")
        Membership.objects.create(
            organization=team, user=Identity.objects.get().user, role="viewer"
        )

        response = client.post(
            "/api/v1/conversations",
            {"message": "hello", "organization": str(team.pk)},
            content_type="application/json",
            headers=self.headers(
                oidc, person, scope="conversations.create admin", realm_access={"roles": ["admin"]}
            ),
        )

        assert response.status_code in (400, 403)

    def test_suspended_user_is_refused(self, oidc, provider, client):
        from accounts.models import User

        person = oidc.add_person("ana")
        client.get("/api/v1/users/me", headers=self.headers(oidc, person))
        services.suspend_user(user=User.objects.get())

        assert client.get("/api/v1/users/me", headers=self.headers(oidc, person)).status_code == 401

    def test_email_address_of_a_local_account_is_401(self, oidc, provider, client, alice):
        person = oidc.add_person("mallory", email=alice.email)

        assert client.get("/api/v1/users/me", headers=self.headers(oidc, person)).status_code == 401

    def test_token_signed_with_a_new_key_is_accepted(self, oidc, provider, client, monkeypatch):
        from accounts.oidc import providers

        person = oidc.add_person("ana")
        client.get("/api/v1/users/me", headers=self.headers(oidc, person))
        monkeypatch.setattr(providers, "REFETCH_PAUSE_SECONDS", 0)
        oidc.rotate_key()

        assert client.get("/api/v1/users/me", headers=self.headers(oidc, person)).status_code == 200

    def test_cached_keys_verify_tokens_while_the_provider_is_unreachable(
        self, oidc, provider, client
    ):
        from accounts.oidc import providers

        person = oidc.add_person("ana")
        headers = self.headers(oidc, person)
        assert client.get("/api/v1/users/me", headers=headers).status_code == 200
        oidc.is_down = True
        assert client.get("/api/v1/users/me", headers=headers).status_code == 200
        providers.clear_caches()
        assert client.get("/api/v1/users/me", headers=headers).status_code == 503
