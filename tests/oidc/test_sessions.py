"""Where one is signed in, and the end of it: by oneself, by the provider, by an administrator."""

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
    """Who was woken."""
    seen = []
    monkeypatch.setattr(
        bus.publisher,
        "nudge",
        lambda group, wakeup: seen.append((group, bus.encode(wakeup)["type"])),
    )
    return seen


def signed_in(user, **extra):
    client = Client(**extra)
    client.force_login(user)
    return client


def is_in(client):
    return client.get("/api/v1/users/me").status_code == 200


def unsafe(client, method, path):
    return client.generic(method, path)


def test_list_says_device_address_and_which_is_this_one(alice, charlie):
    mine = Client(headers={"User-Agent": "Firefox"})
    assert (
        mine.post(
            "/sign-in", {"email": alice.email, "password": "correct horse battery"}
        ).status_code
        == 302
    )
    signed_in(alice)
    signed_in(charlie)

    items = mine.get("/api/v1/sessions").json()["items"]

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


def test_revoking_one_ends_it_and_wakes_its_sockets(
    alice, nudges, django_capture_on_commit_callbacks
):
    mine, other = signed_in(alice), signed_in(alice)
    listed = mine.get("/api/v1/sessions").json()["items"]
    target = next(item for item in listed if not item["is_current"])

    with django_capture_on_commit_callbacks(execute=True):
        assert unsafe(mine, "DELETE", f"/api/v1/sessions/{target['id']}").status_code == 204

    assert is_in(mine)
    assert not is_in(other)
    assert nudges == [(f"user.{alice.pk.hex}", "access.changed")]
    assert unsafe(mine, "DELETE", f"/api/v1/sessions/{target['id']}").status_code == 404


def test_somebody_elses_session_does_not_exist(alice, charlie):
    signed_in(alice)
    target = UserSession.objects.get(user=alice)

    assert unsafe(signed_in(charlie), "DELETE", f"/api/v1/sessions/{target.pk}").status_code == 404
    assert key_client(charlie).get(f"/api/v1/sessions/{target.pk}").status_code == 404
    assert signed_in(charlie).post(f"/settings/sessions/{target.pk}/end").status_code == 404


def test_sign_out_everywhere_keeps_this_one(alice):
    mine, others = signed_in(alice), [signed_in(alice) for _ in range(3)]

    assert unsafe(mine, "POST", "/api/v1/sessions/sign-out-everywhere").json() == {"ended": 3}

    assert is_in(mine)
    assert not any(map(is_in, others))
    assert key_client(alice).post("/api/v1/sessions/sign-out-everywhere").json() == {"ended": 1}
    assert not is_in(mine)


def test_pages_do_the_same(alice):
    mine, other, third = signed_in(alice), signed_in(alice), signed_in(alice)
    page = mine.get("/settings/sign-in")
    assert page.content.count(b"/end") == 4
    this = page.context["this_session"]
    target = UserSession.objects.exclude(pk=this.pk).order_by("-created_at").first()

    mine.post(f"/settings/sessions/{target.pk}/end")
    assert (is_in(other), is_in(third)) == (True, False)
    mine.post(f"/settings/sessions/{this.pk}/end", {"everywhere": "1"})
    assert (is_in(mine), is_in(other)) == (True, False)


def test_signing_out_makes_a_copied_cookie_worthless(alice):
    mine = signed_in(alice)
    thief = Client()
    thief.cookies["sessionid"] = mine.cookies["sessionid"].value
    assert is_in(thief)

    mine.post("/sign-out")

    assert not is_in(thief)
    assert UserSession.objects.get().end_reason == "signed out"


def test_new_id_at_sign_in_and_the_earlier_session_of_this_browser_ends(alice):
    mine = Client()
    mine.get("/sign-in")
    form = {"email": alice.email, "password": "correct horse battery"}
    mine.post("/sign-in", form)
    first = mine.cookies["sessionid"].value
    mine.post("/api/v1/auth/sign-in", form, content_type="application/json")

    assert mine.cookies["sessionid"].value != first
    assert UserSession.objects.filter(ended_at=None).count() == 1


def test_new_password_ends_the_other_sessions(alice, nudges, django_capture_on_commit_callbacks):
    mine = signed_in(alice)

    with django_capture_on_commit_callbacks(execute=True):
        alice.set_password("another long passphrase")
        alice.save()

    assert not is_in(mine)
    assert (f"user.{alice.pk.hex}", "access.changed") in nudges


def test_suspension_ends_sessions_for_good(alice, nudges, django_capture_on_commit_callbacks):
    mine = signed_in(alice)

    with django_capture_on_commit_callbacks(execute=True):
        services.suspend_user(user=alice)
    assert not is_in(mine)
    services.activate_user(user=alice)

    assert not is_in(mine)
    assert (f"user.{alice.pk.hex}", "access.changed") in nudges


def test_revoked_key_wakes_its_sockets(alice, nudges, django_capture_on_commit_callbacks):
    key, _ = services.issue_api_key(user=alice, name="x")

    with django_capture_on_commit_callbacks(execute=True):
        services.revoke_api_key(key=key)

    assert nudges == [(f"user.{alice.pk.hex}", "access.changed")]


def test_session_that_names_no_row_is_nobodys(alice):
    mine = signed_in(alice)
    session = mine.session
    del session[sessions.SESSION_KEY]
    session.save()

    assert not is_in(mine)


def test_session_that_names_somebody_elses_row_is_nobodys(alice, charlie):
    mine = signed_in(alice)
    signed_in(charlie)
    session = mine.session
    session[sessions.SESSION_KEY] = str(UserSession.objects.get(user=charlie).pk)
    session.save()

    assert not is_in(mine)


class TestBackChannel:
    def post(self, **form):
        return Client(enforce_csrf_checks=True).post("/oidc/acme/back-channel-logout", form)

    def test_ends_the_session_of_a_sid_only(
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

    def test_ends_all_sessions_of_a_sub(self, browser, oidc):
        person = oidc.add_person("ana")
        browser.sign_in(person)
        other = Browser(oidc)
        other.sign_in(person)

        assert self.post(logout_token=oidc.logout_token(sub=person.sub)).status_code == 200

        assert not browser.is_signed_in
        assert not other.is_signed_in

    def test_leaves_local_sessions_and_others_alone(self, browser, oidc, alice):
        browser.sign_in(oidc.add_person("ana"))
        mine = signed_in(alice)

        assert self.post(logout_token=oidc.logout_token(sub="sub-of-nobody")).status_code == 200

        assert is_in(mine)
        assert browser.is_signed_in

    def test_ends_bearer_tokens_of_the_session(self, browser, oidc, client):
        person = oidc.add_person("ana")
        browser.sign_in(person)
        sid = next(iter(oidc.sessions))
        headers = {"Authorization": f"Bearer {oidc.access_token(person, sid=sid)}"}
        assert client.get("/api/v1/users/me", headers=headers).status_code == 200

        self.post(logout_token=oidc.logout_token(sid=sid))

        assert client.get("/api/v1/users/me", headers=headers).status_code == 401


class TestSignOut:
    def test_goes_on_to_the_provider(self, browser, oidc):
        browser.sign_in(oidc.add_person("ana"))

        page = browser.client.post("/sign-out")

        assert page.context["url"].startswith(
            f"{oidc.issuer}/protocol/openid-connect/logout?id_token_hint="
        )
        assert "post_logout_redirect_uri=http%3A%2F%2Ftestserver%2Fsign-in" in page.context["url"]
        assert not browser.is_signed_in

    def test_ends_here_also_while_the_provider_is_away(self, browser, oidc):
        from accounts.oidc import providers

        browser.sign_in(oidc.add_person("ana"))
        oidc.is_down = True
        providers.clear_caches()

        assert browser.client.post("/sign-out").status_code == 302
        assert not browser.is_signed_in


class TestBearer:
    def headers(self, oidc, person, **claims):
        return {"Authorization": f"Bearer {oidc.access_token(person, **claims)}"}

    def test_creates_the_unknown_where_the_provider_may(self, oidc, provider, client):
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

    def test_needs_no_csrf_token_and_acts_as_its_user(self, oidc, provider):
        client = Client(enforce_csrf_checks=True)

        made = client.post(
            "/api/v1/conversations",
            {"message": "hello"},
            content_type="application/json",
            headers=self.headers(oidc, oidc.add_person("ana")),
        )

        assert made.status_code == 201

    def test_has_no_more_than_its_users_role(self, oidc, provider, client, alice):
        from accounts.models import Identity, Membership, Organization

        person = oidc.add_person("ana")
        client.get("/api/v1/users/me", headers=self.headers(oidc, person))
        team = Organization.objects.create(name="team")
        Membership.objects.create(
            organization=team, user=Identity.objects.get().user, role="viewer"
        )

        made = client.post(
            "/api/v1/conversations",
            {"message": "hello", "organization": str(team.pk)},
            content_type="application/json",
            headers=self.headers(
                oidc, person, scope="conversations.create admin", realm_access={"roles": ["admin"]}
            ),
        )

        assert made.status_code in (400, 403)

    def test_suspended_user_is_refused(self, oidc, provider, client):
        from accounts.models import User

        person = oidc.add_person("ana")
        client.get("/api/v1/users/me", headers=self.headers(oidc, person))
        services.suspend_user(user=User.objects.get())

        assert client.get("/api/v1/users/me", headers=self.headers(oidc, person)).status_code == 401

    def test_email_of_a_local_account_links_nothing(self, oidc, provider, client, alice):
        person = oidc.add_person("mallory", email=alice.email)

        assert client.get("/api/v1/users/me", headers=self.headers(oidc, person)).status_code == 401

    def test_keys_rotate(self, oidc, provider, client, monkeypatch):
        from accounts.oidc import providers

        person = oidc.add_person("ana")
        client.get("/api/v1/users/me", headers=self.headers(oidc, person))
        monkeypatch.setattr(providers, "REFETCH_PAUSE_SECONDS", 0)
        oidc.rotate_key()

        assert client.get("/api/v1/users/me", headers=self.headers(oidc, person)).status_code == 200

    def test_works_while_the_provider_is_away(self, oidc, provider, client):
        from accounts.oidc import providers

        person = oidc.add_person("ana")
        headers = self.headers(oidc, person)
        assert client.get("/api/v1/users/me", headers=headers).status_code == 200
        oidc.is_down = True
        assert client.get("/api/v1/users/me", headers=headers).status_code == 200
        providers.clear_caches()
        assert client.get("/api/v1/users/me", headers=headers).status_code == 503
