"""Signing in with an identity provider: accounts, links, errors, claimed roles, the admin page."""

import pytest
from django.test import Client

from accounts import services
from accounts.models import (
    AuditEntry,
    Identity,
    Membership,
    Organization,
    ProviderSession,
    User,
    UserSession,
)
from accounts.oidc import providers
from accounts.services import claimed_roles, identities, identity_providers, sessions
from lib import crypto
from tests.oidc.conftest import Browser, create_provider, redirect_path


def test_first_sign_in_creates_an_account_with_a_personal_organization(browser, oidc):
    response = browser.sign_in(oidc.add_person("ana"), target="/settings")

    assert (response.status_code, redirect_path(response)) == (302, "/settings")
    user = User.objects.get(email="ana@example.org")
    assert user.personal_organization.name
    assert user.identities.get().sub == "sub-of-ana"
    assert browser.is_signed_in


def test_failed_write_of_the_tokens_leaves_no_session(browser, oidc, monkeypatch):
    def fail(**_):
        raise RuntimeError("the database is down")

    monkeypatch.setattr(sessions, "store_provider_session", fail)

    with pytest.raises(RuntimeError):
        browser.sign_in(oidc.add_person("ana"))

    assert not UserSession.objects.exists()
    assert not AuditEntry.objects.filter(action="sign_in.succeeded").exists()


def test_authorization_request_has_state_nonce_and_pkce(browser):
    url = browser.start()

    for part in (
        "response_type=code",
        "code_challenge_method=S256",
        "&nonce=",
        "&state=",
        "scope=openid+email+profile",
    ):
        assert part in url
    assert "redirect_uri=http%3A%2F%2Ftestserver%2Foidc%2Facme%2Fcallback" in url


def test_second_sign_in_with_a_changed_address_finds_the_same_account(browser, oidc):
    person = oidc.add_person("ana")
    browser.sign_in(person)
    person.email = "other@example.org"

    Browser(oidc).sign_in(person)

    assert Identity.objects.count() == User.objects.count() == 1
    assert Identity.objects.get().email == "other@example.org"


def test_address_of_a_local_account_is_409_and_links_nothing(browser, oidc, alice):
    response = browser.sign_in(oidc.add_person("mallory", email="ALICE@example.com"))

    assert response.status_code == 409
    assert b"already exists" in response.content
    assert not Identity.objects.exists()
    assert not browser.is_signed_in


def test_linking_asks_the_provider_for_a_fresh_sign_in(oidc, provider, alice):
    person = oidc.add_person("ana", email="alice@example.com")
    browser = Browser(oidc)
    browser.client.force_login(alice)

    page = browser.client.post("/settings/sign-in/acme/connect")
    url = page.context["url"]
    assert "prompt=login" in url
    assert "max_age=0" in url
    response = browser.finish(oidc.authorize(url, person))

    assert redirect_path(response) == "/settings/sign-in"
    assert Identity.objects.get().user == alice
    other = Browser(oidc)
    other.sign_in(person)
    assert other.client.get("/api/v1/users/me").json()["email"] == "alice@example.com"


def test_linking_with_an_old_sign_in_at_the_provider_is_400(oidc, provider, alice):
    browser = Browser(oidc)
    browser.client.force_login(alice)
    url = browser.client.post("/settings/sign-in/acme/connect").context["url"]
    oidc.bend = lambda claims: claims.update(auth_time=claims["iat"] - 3_600)

    response = browser.finish(oidc.authorize(url, oidc.add_person("ana")))

    assert response.status_code == 400
    assert not Identity.objects.exists()


def test_linking_flow_of_another_user_is_403(oidc, provider, alice, bob):
    """Bob's browser finishes a flow that Alice started in it."""
    browser = Browser(oidc)
    browser.client.force_login(alice)
    url = browser.client.post("/settings/sign-in/acme/connect").context["url"]
    states = dict(browser.client.session.items())["oidc_states"]
    browser.client.force_login(bob)
    session = browser.client.session
    session["oidc_states"] = states
    session.save()

    response = browser.finish(oidc.authorize(url, oidc.add_person("ana")))

    assert response.status_code == 403
    assert not Identity.objects.exists()


@pytest.mark.parametrize("purpose", ["link", "offline"])
def test_linking_flow_does_not_sign_a_browser_in(oidc, provider, alice, purpose):
    """The user signed out meanwhile, or the flow has a purpose that only an earlier version knew."""
    browser = Browser(oidc)
    browser.client.force_login(alice)
    url = browser.client.post("/settings/sign-in/acme/connect").context["url"]
    states = dict(browser.client.session.items())["oidc_states"]
    next(iter(states.values()))["purpose"] = purpose
    browser.client.post("/sign-out")
    browser.start()
    session = browser.client.session
    session["oidc_states"] = states
    session.save()

    response = browser.finish(oidc.authorize(url, oidc.add_person("ana")))

    assert response.status_code == {"link": 403, "offline": 400}[purpose]
    assert not browser.is_signed_in
    assert not Identity.objects.exists()


def test_sign_in_is_in_the_audit_log_of_its_user(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))

    user = User.objects.get()
    entry = AuditEntry.objects.get(action="sign_in.succeeded")
    assert entry.chain == user.personal_organization.pk
    assert (entry.actor_kind, entry.actor_id, entry.actor_name, entry.address) == (
        "person",
        str(user.pk),
        "ana@example.org",
        "127.0.0.1",
    )
    assert (entry.subject_id, entry.subject_name) == (str(user.pk), "ana@example.org")


def test_linking_an_identity_of_another_user_is_409(oidc, provider, alice):
    person = oidc.add_person("ana")
    Browser(oidc).sign_in(person)
    browser = Browser(oidc)
    browser.client.force_login(alice)

    url = browser.client.post("/settings/sign-in/acme/connect").context["url"]
    response = browser.finish(oidc.authorize(url, person))

    assert response.status_code == 409
    assert Identity.objects.get().user.email == "ana@example.org"


def test_only_way_to_sign_in_cannot_be_disconnected(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))

    response = browser.client.post("/settings/sign-in/acme/disconnect")

    assert response.status_code == 302
    assert Identity.objects.exists()


def test_disconnecting_ends_the_sessions_of_the_provider(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    user = User.objects.get()
    user.set_password("correct horse battery")
    user.save()
    browser.client.force_login(user)

    browser.client.post("/settings/sign-in/acme/disconnect")

    assert not Identity.objects.exists()
    assert not UserSession.objects.filter(provider_session__isnull=False, ended_at=None).exists()


@pytest.mark.parametrize(
    ("fields", "row", "words"),
    [
        ({"email_verified": False}, {}, b"not verified your e-mail"),
        ({"email": ""}, {}, b"did not send yours"),
        ({"email": "nonsense"}, {}, b"sent an e-mail address that is not valid"),
        ({}, {"creates_users": False}, b"no account on this server"),
    ],
)
def test_unknown_user_who_may_not_be_created_is_403_with_the_reason(oidc, db, fields, row, words):
    create_provider(oidc, **row)
    browser = Browser(oidc)

    response = browser.sign_in(oidc.add_person("ana", **fields))

    assert response.status_code == 403
    assert words in response.content
    assert not User.objects.exists()


def test_suspended_user_is_refused(browser, oidc):
    person = oidc.add_person("ana")
    browser.sign_in(person)
    services.suspend_user(user=User.objects.get())

    assert not browser.is_signed_in
    assert Browser(oidc).sign_in(person).status_code == 403


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("access_denied", 403),
        ("temporarily_unavailable", 503),
        ("server_error", 503),
        ("nonsense", 400),
    ],
)
def test_error_of_the_provider_is_a_page_with_its_status(browser, error, status):
    url = browser.start()
    state = url.partition("state=")[2].partition("&")[0]

    response = browser.client.get(browser.callback, {"error": error, "state": state})

    assert response.status_code == status
    assert b"You were not signed in" in response.content


def test_unreachable_provider_is_503_with_retry_after(browser, oidc):
    answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
    oidc.is_down = True

    response = browser.finish(answer)

    assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
    providers.clear_caches()
    assert browser.client.get("/oidc/acme/sign-in").status_code == 503


def test_provider_that_does_not_respond_in_time_is_503(browser, oidc, settings):
    settings.OIDC_TIMEOUT_SECONDS = 1
    answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
    oidc.slowness = 1.5

    assert browser.finish(answer).status_code == 503


def test_discovery_document_of_another_issuer_is_503(oidc, db):
    create_provider(oidc, issuer=oidc.issuer + "/")

    assert Browser(oidc).client.get("/oidc/acme/sign-in").status_code == 503


def test_sign_in_page_lists_the_enabled_providers(oidc, provider, client):
    create_provider(oidc, slug="other", name="Other")
    create_provider(oidc, slug="off", name="Off", is_enabled=False)

    page = client.get("/sign-in?next=/settings").content.decode()

    assert "/oidc/acme/sign-in?next=%2Fsettings" in page
    assert "/oidc/other/sign-in" in page
    assert "/oidc/off/" not in page
    assert client.get("/oidc/off/sign-in").status_code == 404


def test_answer_of_another_provider_is_400(browser, oidc):
    create_provider(oidc, slug="other", name="Other")
    answer = oidc.authorize(browser.start(), oidc.add_person("ana"))

    assert browser.client.get("/oidc/other/callback", answer).status_code == 400


def test_preset_of_the_environment_is_stored_and_updated(db, settings, oidc):
    preset = {
        "slug": "keycloak",
        "kind": "keycloak",
        "name": "K",
        "issuer": oidc.issuer,
        "client_id": "server",
        "client_secret": "client-secret",
    }
    settings.OIDC_PRESETS = [preset]
    row = identity_providers.find_provider(slug="keycloak")
    assert (row.is_preset, row.client_secret) == (True, "client-secret")

    settings.OIDC_PRESETS = [preset | {"name": "New", "client_secret": "other"}]

    row = identity_providers.find_provider(slug="keycloak")
    assert (row.name, row.client_secret) == ("New", "other")


def test_refresh_token_is_encrypted_and_bound_to_its_row(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    stored = ProviderSession.objects.get()

    assert stored.refresh_token.encode() not in bytes(stored.sealed_refresh_token)
    assert stored.refresh_token == oidc.sessions[stored.sid].refresh_token
    other = ProviderSession(sealed_refresh_token=stored.sealed_refresh_token)
    with pytest.raises(crypto.Undecryptable):
        _ = other.refresh_token


def test_session_id_changes_at_sign_in(browser, oidc):
    answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
    before = browser.client.cookies["sessionid"].value

    browser.finish(answer)

    assert browser.client.cookies["sessionid"].value != before


class TestRoles:
    @pytest.fixture
    def team(self, provider):
        team = Organization.objects.create(name="team")
        provider.claim_rules = [
            {
                "claim": "realm_access.roles",
                "value": "team-admin",
                "organization": str(team.pk),
                "role": "admin",
            },
            {
                "claim": "realm_access.roles",
                "value": "team",
                "organization": str(team.pk),
                "role": "member",
            },
            {"claim": "realm_access.roles", "value": "operators", "staff": True},
        ]
        provider.save()
        return team

    def test_membership_and_staff_status_follow_the_realm_roles(self, browser, oidc, team):
        person = oidc.add_person("ana", roles=["team", "team-admin"])
        browser.sign_in(person)
        assert Membership.objects.get(organization=team).role == "admin"

        person.roles = ["team", "operators"]
        Browser(oidc).sign_in(person)
        assert Membership.objects.get(organization=team).role == "member"
        assert User.objects.get().is_staff

        person.roles = []
        Browser(oidc).sign_in(person)
        assert not Membership.objects.filter(organization=team).exists()
        assert not User.objects.get().is_staff

    @pytest.mark.parametrize(
        ("name", "is_stored"),
        [
            ("Ana \N{FOX FACE}", True),
            ("Ana \ud83e", False),
            ("Ana \0", False),
            ("a" * 70_000, False),
        ],
    )
    def test_stored_claims_are_reduced_only_if_the_database_cannot_store_them(
        self, browser, oidc, name, is_stored
    ):
        browser.sign_in(oidc.add_person("ana"))
        identity = Identity.objects.get()

        claimed_roles.apply_claims(
            identity=identity, claims={"sub": identity.sub, "name": name, "groups": ["team"]}
        )

        identity.refresh_from_db()
        assert identity.last_claims["sub"] == identity.sub
        assert ("groups" in identity.last_claims) == is_stored

    def test_membership_given_by_a_person_is_not_changed(self, browser, oidc, team):
        person = oidc.add_person("ana")
        browser.sign_in(person)
        user = User.objects.get()
        Membership.objects.create(organization=team, user=user, role="viewer")
        User.objects.update(is_staff=True)

        person.roles = ["team-admin"]
        Browser(oidc).sign_in(person)
        person.roles = []
        Browser(oidc).sign_in(person)

        assert Membership.objects.get(organization=team).role == "viewer"
        assert User.objects.get().is_staff

    @pytest.mark.parametrize("end", ["claims", "disconnect"])
    def test_membership_that_ends_revokes_the_api_keys_in_its_organization(
        self, browser, oidc, team, end
    ):
        person = oidc.add_person("ana", roles=["team-admin"])
        browser.sign_in(person)
        user = User.objects.get(email="ana@example.org")
        user.set_password("another way to sign in")
        user.save()
        here, _ = services.issue_api_key(user=user, name="here", organization=team)
        personal, _ = services.issue_api_key(user=user, name="personal")

        if end == "claims":
            person.roles = []
            Browser(oidc).sign_in(person)
        else:
            identities.unlink_identity(identity=user.identities.get())

        for key in (here, personal):
            key.refresh_from_db()
        assert not Membership.objects.filter(organization=team, user=user).exists()
        assert (here.revoked_at is None, personal.revoked_at is None) == (False, True)

    def test_evaluation_of_rules_changes_nothing(self, oidc, team, provider):
        outcome = claimed_roles.evaluate_rules(
            provider.claim_rules, {"realm_access": {"roles": ["team", "x"]}}
        )

        assert (outcome.roles, outcome.is_staff) == ({team.pk: "member"}, False)
        assert outcome.matched == (1,)
        assert not Membership.objects.filter(organization=team).exists()

    @pytest.mark.parametrize(
        "rule",
        [
            "x",
            {},
            {"claim": "a"},
            {"claim": "a", "value": "b"},
            {"claim": "a", "value": "b", "staff": False},
            {"claim": "a", "value": "b", "organization": "x", "role": "admin"},
            {
                "claim": "a",
                "value": "b",
                "organization": "018f0000-0000-7000-8000-000000000000",
                "role": "king",
            },
            {"claim": "a", "value": "b", "staff": True, "superuser": True},
        ],
    )
    def test_invalid_rule_raises_bad_rule(self, rule):
        with pytest.raises(claimed_roles.BadRule):
            claimed_roles.evaluate_rules([rule], {})

    def test_name_of_a_claim_may_contain_dots(self):
        rule = {"claim": "https://example.com/roles", "value": "ops", "staff": True}

        assert claimed_roles.evaluate_rules([rule], {"https://example.com/roles": ["ops"]}).is_staff
        assert (
            claimed_roles.evaluate_rules([rule], {"https://example": {"com/roles": "no"}}).is_staff
            is False
        )


class TestStaff:
    def test_command_previews_and_applies_the_rules(
        self, browser, oidc, provider, capsys, tmp_path
    ):
        from django.core.management import CommandError, call_command

        team = Organization.objects.create(name="team")
        browser.sign_in(oidc.add_person("ana", roles=["team"]))
        provider.claim_rules = [
            {
                "claim": "realm_access.roles",
                "value": "team",
                "organization": str(team.pk),
                "role": "admin",
            }
        ]
        provider.save()
        file = tmp_path / "claims.json"
        file.write_text('{"realm_access": {"roles": ["team"]}}')

        call_command("map_oidc_claims", "acme", claims=str(file))
        call_command("map_oidc_claims", "acme", dry_run=True)
        assert not Membership.objects.filter(organization=team).exists()
        call_command("map_oidc_claims", "acme")

        output = capsys.readouterr().out
        assert "these claims: admin in team\n" in output
        assert output.endswith("ana@example.org: admin in team\nApplied the rules to 1 user.\n")
        assert Membership.objects.get(organization=team).role == "admin"
        with pytest.raises(CommandError):
            call_command("map_oidc_claims", "unknown")

    def test_client_secret_is_set_on_the_admin_page_and_never_shown(self, oidc, provider):
        root = services.create_user(email="root@example.com", is_staff=True, is_superuser=True)
        admin_client = Client()
        admin_client.force_login(root)
        address = f"/admin/accounts/identityprovider/{provider.pk}/change/"
        form = {
            "slug": "acme",
            "name": "Acme",
            "kind": "keycloak",
            "issuer": oidc.issuer,
            "client_id": "server",
            "scopes": "openid email",
            "is_enabled": "on",
            "bearer_clients": "[]",
            "claim_rules": "[]",
            "new_client_secret": "a-new-secret",
        }
        assert admin_client.post(address, form).status_code == 302
        provider.refresh_from_db()
        assert provider.client_secret == "a-new-secret"
        assert admin_client.post(address, form | {"new_client_secret": ""}).status_code == 302
        provider.refresh_from_db()
        assert provider.client_secret == "a-new-secret"
        page = admin_client.get(address)
        assert (page.status_code, b"a-new-secret" in page.content) == (200, False)
        wrong = admin_client.post(address, form | {"claim_rules": '[{"claim": "a"}]'})
        assert b"`value` must be a text that is not empty." in wrong.content
