"""The pages to sign in and out, to use a set-up link, and to manage the account and API keys."""

import pytest
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY
from django.test import Client
from django.urls import reverse

from accounts import services
from accounts.models import ApiKey, AuditEntry, User
from accounts.roles import ROLE_PERMISSIONS
from accounts.services import terms
from accounts.sign_in import browser_sessions
from accounts.web.pages import SCOPE_LABELS

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _many_attempts(settings) -> None:
    """Raise the rate limit: all tests sign in from one address within the same minute."""
    settings.SIGN_IN_RATE = "1000/m"


def sign_in(
    client: Client, *, email: str = "alice@example.com", password: str = PASSWORD, **more: str
):
    return client.post(reverse("sign-in"), {"email": email, "password": password} | more)


def test_sign_in_redirects_to_the_next_address(client, alice):
    client.get("/sign-in")
    response = sign_in(client, email="ALICE@example.com", next="/settings/model")

    assert (response.status_code, response.headers["Location"]) == (302, "/settings/model")
    assert client.get("/settings").status_code == 200


def test_sign_in_redirects_to_new_terms_until_they_are_accepted(client, alice, settings):
    settings.TERMS_VERSION = "2026-11"

    response = sign_in(client, next="/settings/model")

    assert response.headers["Location"] == "/accept-tos?redirect_url=%2Fsettings%2Fmodel"
    terms.accept_terms(user=alice, address=None)
    assert sign_in(client, next="/settings/model").headers["Location"] == "/settings/model"


def test_session_id_changes_at_sign_in(client, alice):
    session = client.session
    session["planted"] = "yes"
    session.save()
    before = session.session_key

    sign_in(client)

    assert client.session.session_key != before


@pytest.mark.parametrize(
    ("email", "password"),
    [("alice@example.com", "wrong"), ("nobody@example.com", PASSWORD), ("", ""), ("a\0b", "x")],
)
def test_wrong_address_and_wrong_password_get_the_same_sentence(client, alice, email, password):
    response = sign_in(client, email=email, password=password)

    assert response.status_code == 422
    assert "The e-mail address or the password is wrong." in response.text
    assert "_auth_user_id" not in client.session


@pytest.mark.parametrize(
    "hostile",
    [
        "https://evil.example", "//evil.example", "///evil.example", "http:///evil.example", "javascript:alert(1)",
        "https:evil.example", "\\\\evil.example", "/\\evil.example", "http://testserver@evil.example", "\x08//evil.example",
        " //evil.example", "//evil.example\\@testserver", "data:text/html,x", "http://testserver.evil.example/",
        "nowhere", "settings",
    ],
)  # fmt: skip
def test_next_address_of_another_site_becomes_the_start_page(client, alice, hostile):
    assert sign_in(client, next=hostile).headers["Location"] == "/"
    assert client.get("/sign-in", {"next": hostile}).headers["Location"] == "/"


def test_form_keeps_a_next_address_of_this_site(client, alice):
    page = client.get("/sign-in", {"next": "/conversations/x"}).text

    assert 'name="next" value="/conversations/x"' in page


def test_attempt_beyond_the_limit_is_429_with_retry_after(client, alice, settings):
    settings.SIGN_IN_RATE = "2/m"
    answers = [sign_in(client, password="wrong") for _ in range(3)]

    assert [answer.status_code for answer in answers[:2]] == [422, 422]
    assert answers[2].status_code == 429
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 61
    assert "Too many attempts" in answers[2].text


def test_sign_in_is_503_if_attempts_cannot_be_counted(client, alice, settings):
    settings.CACHES = {
        "default": settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:1/0"},
    }
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"

    response = sign_in(client)

    assert response.status_code == 503
    assert "cannot count sign-in attempts" in response.text


def test_sign_in_without_csrf_token_is_403(alice):
    strict = Client(enforce_csrf_checks=True)

    assert sign_in(strict).status_code == 403


def test_sign_out_by_post_ends_the_session_and_get_is_405(client, alice):
    client.force_login(alice)

    assert client.get("/sign-out").status_code == 405
    assert client.post("/sign-out").headers["Location"] == "/sign-in"
    assert client.get("/settings").status_code == 302


@pytest.mark.parametrize("backend", browser_sessions.MOVED_BACKENDS)
def test_session_of_a_moved_backend_stays_signed_in(client, alice, backend):
    client.force_login(alice)
    session = client.session
    session[BACKEND_SESSION_KEY] = backend
    session.save()

    assert client.get("/settings").status_code == 200
    assert client.session[BACKEND_SESSION_KEY] in settings.AUTHENTICATION_BACKENDS


# --- Set-up -------------------------------------------------------------------------


def test_setup_link_creates_the_first_administrator_once(client, db):
    path = services.create_setup_link(email="root@example.com")

    assert 'value="root@example.com"' in client.get(path).text
    response = client.post(
        path, {"email": "root@example.com", "name": "Root", "password": PASSWORD}
    )
    again = Client().get(path)

    assert response.headers["Location"] == "/"
    assert client.get("/settings").status_code == 200
    assert User.objects.get().is_superuser
    assert again.status_code == 404
    assert "already used or has expired" in again.text


def test_setup_link_stays_usable_after_a_rejected_password(client, db):
    path = services.create_setup_link()

    refused = client.post(path, {"email": "root@example.com", "name": "Root", "password": "short"})

    assert refused.status_code == 400
    assert "too short" in refused.text
    assert 'value="Root"' in refused.text
    assert "short" not in refused.text.replace("too short", "")
    assert client.get(path).status_code == 200


# --- API keys -----------------------------------------------------------------------


def test_new_key_works_and_is_shown_once(client, alice):
    client.force_login(alice)
    response = client.post("/settings/api-keys", {"name": "ci", "days": "30", "access": "full"})
    key = response.context["plain"]

    assert response.status_code == 201
    assert key in response.text
    assert "no-store" in response.headers["Cache-Control"]
    page = client.get("/settings/api-keys")
    assert (page.status_code, key.partition(".")[2] in page.text) == (200, False)
    me = Client().get("/api/v1/users/me", headers={"Authorization": f"Bearer {key}"})
    assert me.status_code == 200


@pytest.mark.parametrize(
    ("form", "scopes"),
    [
        ({"access": "full"}, []),
        (
            {"access": "custom", "scope": ["conversations.view", "root.everything"]},
            ["conversations.view"],
        ),
    ],
)
def test_new_key_has_the_chosen_scopes_that_exist(client, alice, form, scopes):
    client.force_login(alice)
    response = client.post("/settings/api-keys", {"name": "k", "days": "1"} | form)

    assert response.status_code == 201
    assert ApiKey.objects.get().scopes == scopes


def test_read_only_key_cannot_create_a_conversation(client, alice):
    client.force_login(alice)
    page = client.post("/settings/api-keys", {"name": "k", "days": "1", "access": "read"})
    headers = {"Authorization": f"Bearer {page.context['plain']}"}

    assert Client().get("/api/v1/conversations", headers=headers).status_code == 200
    created = Client().post(
        "/api/v1/conversations", "{}", content_type="application/json", headers=headers
    )
    assert created.status_code == 403


@pytest.mark.parametrize(
    "form",
    [
        {"name": "", "days": "1"}, {"name": "k" * 81, "days": "1"}, {"name": "k", "days": "0"}, {"name": "k", "days": "x"},
        {"name": "k", "days": "²"}, {"name": "k", "days": "9" * 5000}, {"name": "k", "days": "1", "access": "custom"}, {"name": "a\0b", "days": "1"},
    ],
)  # fmt: skip
def test_invalid_key_form_is_422_with_the_reason(client, alice, form):
    client.force_login(alice)
    response = client.post("/settings/api-keys", form)

    assert response.status_code == 422
    assert 'class="field-error"' in response.text
    assert not ApiKey.objects.exists()


def test_key_of_another_user_cannot_be_revoked(client, alice, charlie):
    key, _ = services.issue_api_key(user=alice, name="mine")
    client.force_login(charlie)
    assert client.post(f"/settings/api-keys/{key.pk}/revoke").status_code == 404

    client.force_login(alice)
    client.post(f"/settings/api-keys/{key.pk}/revoke")
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert "Revoked" in client.get("/settings/api-keys").text


def test_name_of_a_key_is_escaped(client, alice):
    services.issue_api_key(user=alice, name="<script>alert(1)</script>")
    client.force_login(alice)

    page = client.get("/settings/api-keys").text

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def change(client, **form):
    return client.post("/settings", {"current": PASSWORD, "new": "another good one"} | form)


def test_new_password_signs_other_browsers_out(client, alice):
    other = Client()
    for browser in (client, other):
        sign_in(browser)

    changed = change(client)

    assert (changed.status_code, changed.headers["Location"]) == (302, "/settings")
    assert client.get("/settings").status_code == 200
    assert other.get("/settings").status_code == 302
    assert sign_in(Client()).status_code == 422
    assert sign_in(Client(), password="another good one").status_code == 302
    assert AuditEntry.objects.filter(
        action="user.password_changed", actor_name=alice.email
    ).exists()


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"current": "not it at all"}, "The current password is wrong. Enter it again."),
        ({"new": "short"}, "too short"),
    ],
)
def test_rejected_password_leaves_the_old_one_valid(client, alice, form, sentence):
    sign_in(client)

    refused = change(client, **form)

    assert refused.status_code in {400, 422}
    assert sentence in refused.text
    assert sign_in(Client()).status_code == 302


def test_attempts_with_a_wrong_current_password_are_limited(client, alice, settings):
    sign_in(client)
    settings.SIGN_IN_RATE = "2/m"

    assert [change(client, current="guess").status_code for _ in range(3)][-1] == 429


def test_account_without_a_password_cannot_change_it(client, alice):
    alice.set_unusable_password()
    alice.save()
    client.force_login(alice)

    page = client.get("/settings")
    assert (page.status_code, "Change password" in page.text) == (200, False)
    assert change(client).status_code == 422


def test_every_permission_has_a_label_for_the_key_form():
    assert frozenset().union(*ROLE_PERMISSIONS.values()) == SCOPE_LABELS.keys()


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            "Firefox on Linux",
        ),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/126.0 Safari/537.36 Edg/126.0", "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5) Version/17.5 Safari/604.1", "Safari on iPhone"),
        ("curl/8.7.1", "curl"),
        ("some <b>tool", "some &lt;b&gt;tool"),
        ("", "Unknown browser"),
    ],
)
def test_session_list_names_the_browser_of_a_user_agent(client, alice, user_agent, words):
    client.post(
        "/sign-in",
        {"email": alice.email, "password": PASSWORD},
        headers={"User-Agent": user_agent},
    )

    assert f">{words}</strong>" in client.get("/settings/sign-in").text
