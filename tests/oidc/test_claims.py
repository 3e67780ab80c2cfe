"""Claims in the forms in which providers send them, and claims that a refresh no longer contains."""

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.models import Identity, ProviderSession, User
from accounts.oidc.claims import read_flag, read_names, read_number
from accounts.services import claimed_roles, identities, organizations
from tests.oidc.conftest import create_provider

ABSENT = object()


def claims_with(**fields):
    claims = {"sub": "s", "email": "ana@example.org", "email_verified": True} | fields
    return {name: value for name, value in claims.items() if value is not ABSENT}


def can_create_account(provider, **fields):
    try:
        identities.sign_in_identity(provider=provider, claims=claims_with(**fields))
    except identities.SignInRefused:
        return False
    return True


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True", " TRUE ", "1", "yes", ["true"]])
def test_verified_address_is_accepted_in_every_form(provider, value):
    assert can_create_account(provider, email_verified=value)


@pytest.mark.parametrize("trusts", [False, True])
@pytest.mark.parametrize("value", [False, 0, "false", "False", "0", "no", "", "maybe", [], {}, 2])
def test_unverified_or_unreadable_address_is_refused_in_every_form(provider, value, trusts):
    provider.trusts_email = trusts

    assert not can_create_account(provider, email_verified=value)


@pytest.mark.parametrize("trusts", [False, True])
@pytest.mark.parametrize("value", [ABSENT, None])
def test_setting_of_the_provider_decides_without_the_claim(provider, value, trusts):
    provider.trusts_email = trusts

    assert can_create_account(provider, email_verified=value) is trusts


@pytest.mark.parametrize(("value", "accepted"), [(True, True), ("1", True), (False, False)])
def test_claim_of_entra_counts_without_the_standard_claim(provider, value, accepted):
    assert can_create_account(provider, email_verified=ABSENT, xms_edov=value) is accepted


@pytest.mark.parametrize("value", ["true", "false"])
def test_text_claim_decides_in_a_whole_sign_in(browser, oidc, value):
    oidc.bend = lambda claims: claims.update(email_verified=value) or None

    response = browser.sign_in(oidc.add_person("ana"))

    assert response.status_code == (302 if value == "true" else 403)


def test_preset_from_the_environment_sets_trusted_addresses(oidc, settings, db):
    from accounts.services import identity_providers

    settings.OIDC_PRESETS = [
        {
            "slug": "oidc", "kind": "generic", "name": "x", "issuer": oidc.issuer, "client_id": "x",
            "client_secret": "x", "trusts_email": True,
        }
    ]  # fmt: skip

    assert identity_providers.find_provider(slug="oidc").trusts_email


def test_address_and_name_in_a_list_of_one_element_are_read(provider):
    assert can_create_account(provider, email=["ana@example.org"], name=["Ana"])
    assert User.objects.get(email="ana@example.org").name == "Ana"


GROUP = "team-admins"


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("groups", {"groups": ["x", GROUP]}),
        ("groups", {"groups": GROUP}),
        ("groups", {"groups": f"x,{GROUP}"}),
        ("groups", {"groups": f" x , {GROUP} "}),
        ("groups", {"groups": f'["x", "{GROUP}"]'}),
        ("groups", {"groups": f"[x, {GROUP}]"}),
        ("groups", {"groups": [["x"], [GROUP]]}),
        ("groups", {"groups": [{"name": "x"}, {"name": GROUP}]}),
        ("groups", {"groups": [{"id": GROUP, "name": "Admins"}]}),
        ("groups", {"groups": f'[{{"name": "{GROUP}"}}]'}),
        ("groups.name", {"groups": [{"name": "x"}, {"name": GROUP}]}),
        ("roles", {"roles": {GROUP: {"org": "x"}}}),
        ("realm_access.roles", {"realm_access": {"roles": [GROUP]}}),
        ("realm_access.roles", {"realm_access": f'{{"roles": ["{GROUP}"]}}'}),
        ("a.b.c.roles", {"a": {"b.c": {"roles": [GROUP]}}}),
        ("https://x.example/roles", {"https://x.example/roles": [GROUP]}),
        ("cognito:groups", {"cognito:groups": [GROUP]}),
        ("scope", {"scope": f"openid {GROUP} x"}),
        ("scp", {"scp": [GROUP]}),
    ],
)
def test_rule_finds_a_group_in_every_form(path, claims):
    assert GROUP in read_names(claims, path)


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("groups", {}),
        ("groups", {"groups": None}),
        ("groups", {"groups": [f"x,{GROUP}"]}),
        ("groups", {"groups": f"{GROUP}-2"}),
        ("groups", {"groups": f"x {GROUP}"}),
        ("groups", {"groups": [f'["{GROUP}"]']}),
        ("groups", {"groups": {"x": GROUP}}),
        ("roles", {"roles": {GROUP: False}}),
        ("roles", {"roles": {GROUP: True}}),
        ("groups.name", {"groups": GROUP}),
        ("realm_access.roles", {"realm_access": [GROUP]}),
        ("groups", {"groups": [{"description": GROUP}]}),
    ],
)
def test_rule_finds_no_group_elsewhere(path, claims):
    assert GROUP not in read_names(claims, path)


@pytest.mark.parametrize(
    ("value", "name"), [(7, "7"), (True, "true"), (False, "false"), ([3], "3")]
)
def test_rule_finds_numbers_and_booleans(value, name):
    assert read_names({"level": value}, "level") == {name}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "[" * 3_000 + "]" * 3_000])
def test_deep_json_text_is_only_a_text(text):
    assert text in read_names({"groups": text}, "groups")
    read_names({"groups": text}, "groups.x.y")


def test_flags_and_numbers_of_other_types_are_unknown():
    assert [read_flag(value) for value in (None, [], {}, "x", [True, True])] == [None] * 5
    assert [read_number(value) for value in (None, True, "x", "nan", "inf", [])] == [None] * 6
    assert [read_number(value) for value in (3, "3600", 2.5)] == [3, 3600, 2.5]


@pytest.mark.parametrize(
    ("sent", "seconds"), [("3600", 3600), (3600.0, 3600), ("x", 300), (True, 300)]
)
def test_lifetime_of_a_token_may_be_text(browser, oidc, monkeypatch, sent, seconds):
    build = oidc._tokens
    monkeypatch.setattr(oidc, "_tokens", lambda *a, **k: build(*a, **k) | {"expires_in": sent})

    browser.sign_in(oidc.add_person("ana"))

    left = (ProviderSession.objects.get().access_expires_at - timezone.now()).total_seconds()
    assert seconds - 60 < left <= seconds


class TestRefresh:
    @pytest.fixture
    def team(self, alice):
        return organizations.create_organization(user=alice, name="Team")

    @pytest.fixture
    def rule(self, team, provider):
        provider.kind = "generic"
        provider.claim_rules = [
            {"claim": "groups", "value": GROUP, "organization": str(team.pk), "role": "admin"}
        ]
        provider.save()

    def refresh(self, browser):
        ProviderSession.objects.update(access_expires_at=timezone.now() - timedelta(seconds=1))
        assert browser.is_signed_in

    def is_member(self, team):
        identity = Identity.objects.get()
        return team.memberships.filter(user=identity.user).exists()

    @pytest.mark.parametrize("source", ["ID token", "userinfo"])
    def test_group_that_a_refresh_no_longer_contains_is_gone(
        self, browser, oidc, rule, team, source
    ):
        self.send_group(oidc, source)
        browser.sign_in(oidc.add_person("ana"))
        assert self.is_member(team)

        oidc.bend, oidc.userinfo = (lambda claims: None), {}
        self.refresh(browser)

        assert not self.is_member(team)

    @pytest.mark.parametrize("source", ["ID token", "userinfo"])
    def test_group_that_a_refresh_contains_stays(self, browser, oidc, rule, team, source):
        self.send_group(oidc, source)
        browser.sign_in(oidc.add_person("ana"))

        self.refresh(browser)

        assert self.is_member(team)

    def test_group_stays_if_the_refresh_has_no_id_token(
        self, browser, oidc, rule, team, monkeypatch
    ):
        self.send_group(oidc, "ID token")
        browser.sign_in(oidc.add_person("ana"))
        build = oidc._tokens
        monkeypatch.setattr(oidc, "_tokens", lambda *a, **k: build(*a, **k) | {"id_token": None})

        self.refresh(browser)

        assert self.is_member(team)

    def test_failing_userinfo_keeps_the_group_and_stores_the_new_refresh_token(
        self, browser, oidc, rule, team, monkeypatch
    ):
        self.send_group(oidc, "userinfo")
        browser.sign_in(oidc.add_person("ana"))
        before = ProviderSession.objects.get().refresh_token
        from accounts.oidc import providers

        def fail(*_args):
            raise providers.ProviderUnavailable("x")

        monkeypatch.setattr(providers, "fetch_userinfo", fail)

        self.refresh(browser)

        assert self.is_member(team)
        assert ProviderSession.objects.get().refresh_token != before

    def send_group(self, oidc, source):
        if source == "userinfo":
            oidc.userinfo = {"groups": [GROUP]}
        else:
            oidc.bend = lambda claims: claims.update(groups=[GROUP]) or None


def test_claims_of_a_rule_with_dots_are_stored(oidc, db):
    provider = create_provider(
        oidc, claim_rules=[{"claim": "a.b.roles", "value": "x", "staff": True}]
    )
    claims = claims_with(**{"a.b": {"roles": ["x"]}})
    pk = identities.sign_in_identity(provider=provider, claims=claims).pk
    identity = Identity.objects.get(pk=pk)

    claimed_roles.apply_claims(identity=identity, claims=identity.last_claims)

    assert User.objects.get(pk=identity.user_id).is_staff


# --- The address ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "trusts", "accepted"),
    [
        ({"emails": ["ana@example.org"]}, False, True),
        ({"emails": ["ana@example.org", "other@example.org"]}, False, True),
        ({"emails": "ana@example.org"}, False, True),
        ({"email": None, "emails": ["ana@example.org"]}, False, True),
        ({"email": "", "emails": ["ana@example.org"]}, False, True),
        ({"preferred_username": "ana@example.org"}, True, True),
        ({"upn": "ana@example.org", "preferred_username": "ana"}, True, True),
        # A person may choose the name freely, so it counts only if the operator trusts the provider's addresses.
        ({"preferred_username": "ana@example.org"}, False, False),
        ({"preferred_username": "ana"}, True, False),
        ({"emails": []}, True, False),
        ({"emails": [{"value": "ana@example.org"}]}, True, False),
        ({}, True, False),
    ],
)
def test_address_is_read_from_the_claims_of_azure(provider, fields, trusts, accepted):
    provider.trusts_email = trusts

    assert can_create_account(provider, **{"email": ABSENT} | fields) is accepted
    assert User.objects.filter(email="ana@example.org").exists() is accepted


def test_null_in_the_id_token_does_not_hide_the_value_of_the_userinfo(browser, oidc):
    person = oidc.add_person("ana")
    oidc.userinfo = {"email": "ana@example.org", "email_verified": True}
    oidc.bend = lambda claims: claims.update(email=None, email_verified=None) or None

    assert browser.sign_in(person).status_code == 302
    assert Identity.objects.get().email == "ana@example.org"
