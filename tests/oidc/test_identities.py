"""The services of identities and claimed roles, without a provider, and the command that applies the rules."""

import io
import json

import pytest
from django.core.management import CommandError, call_command

from accounts.models import (
    AuditEntry,
    ClaimedRole,
    Identity,
    IdentityProvider,
    Membership,
    Organization,
    User,
)
from accounts.services import claimed_roles, identities
from tests.factories.accounts import UserFactory


@pytest.fixture
def provider(db):
    return IdentityProvider.objects.create(
        slug="acme",
        name="Acme",
        issuer="https://id.example.com",
        client_id="server",
        claim_rules=[],
        requires_verified_email=False,
    )


@pytest.fixture
def team(db):
    return Organization.objects.create(name="team")


def set_rules(provider, *rules):
    provider.claim_rules = list(rules)
    provider.save()


def role_rule(team, role="admin", value="team"):
    return {"claim": "groups", "value": value, "organization": str(team.pk), "role": role}


STAFF_RULE = {"claim": "groups", "value": "ops", "staff": True}


def sign_in(provider, **claims):
    """Sign in with these claims and return the identity with its stored values."""
    claims = {"sub": "a", "email": "ana@example.org"} | claims
    identity = identities.sign_in_identity(provider=provider, claims=claims)
    return Identity.objects.select_related("user").get(pk=identity.pk)


class TestSignIn:
    @pytest.mark.parametrize(
        ("claims", "name"),
        [
            ({"name": "Ana Lopez"}, "Ana Lopez"),
            ({"preferred_username": "ana"}, "ana"),
            ({"name": "A\nna\u202e"}, "Ana"),
            ({"name": "x" * 500}, "x" * 120),
            ({}, ""),
        ],
    )
    def test_name_of_a_new_user_has_only_printable_characters(self, provider, claims, name):
        assert sign_in(provider, **claims).user.name == name

    def test_address_with_a_nul_is_refused(self, provider):
        with pytest.raises(identities.SignInRefused, match="did not send yours"):
            sign_in(provider, email="a\0@example.org")

        assert not User.objects.exists()

    @pytest.mark.parametrize("email", ["\ud800@example.org", "a\0@example.org"])
    def test_changed_address_that_cannot_be_stored_does_not_prevent_a_sign_in(
        self, provider, email
    ):
        first = sign_in(provider)

        second = sign_in(provider, email=email)

        assert (second.pk, second.user.email) == (first.pk, "ana@example.org")

    @pytest.mark.parametrize("name", ["a\0b", *map(chr, (0xD83D, 0xDC00, 0xDB00))])
    def test_claims_that_postgresql_cannot_store_are_reduced_to_the_sub(self, provider, name):
        assert sign_in(provider, name=name).last_claims == {"sub": "a"}

    def test_claims_beyond_64_kib_are_reduced_to_the_sub(self, provider):
        assert sign_in(provider, groups=["x" * 70_000]).last_claims == {"sub": "a"}

    def test_claims_with_an_emoji_are_stored(self, provider):
        identity = sign_in(provider, name="Ana \U0001f600", groups=["team"], secret="x")

        assert identity.last_claims == {
            "sub": "a",
            "email": "ana@example.org",
            "name": "Ana \U0001f600",
            "groups": ["team"],
        }


class TestLink:
    def test_second_account_at_the_same_provider_is_refused(self, alice, provider):
        identities.link_identity(user=alice, provider=provider, claims={"sub": "a"})

        with pytest.raises(identities.IdentityTaken, match="Disconnect it first"):
            identities.link_identity(user=alice, provider=provider, claims={"sub": "b"})

        assert alice.identities.get().sub == "a"

    def test_linking_the_same_account_again_is_one_identity(self, alice, provider):
        first, second = (
            identities.link_identity(user=alice, provider=provider, claims={"sub": "a"})
            for _ in range(2)
        )

        assert first.pk == second.pk
        assert AuditEntry.objects.filter(action="identity.linked").count() == 1

    def test_unlinking_removes_the_claimed_roles_and_the_staff_status(self, provider, team):
        set_rules(provider, role_rule(team), STAFF_RULE)
        UserFactory().memberships.create(organization=team, role="owner")
        identity = sign_in(provider, groups=["team", "ops"])
        identity.user.set_password("correct horse battery")
        identity.user.save()
        assert (identity.user.is_staff, team.memberships.count()) == (True, 2)

        identities.unlink_identity(identity=identity)

        assert team.memberships.count() == 1
        assert not User.objects.get(pk=identity.user_id).is_staff

    def test_unlinking_keeps_the_last_owner_of_an_organization(self, provider, team):
        set_rules(provider, role_rule(team, role="owner"))
        identity = sign_in(provider, groups=["team"])
        identity.user.set_password("correct horse battery")
        identity.user.save()

        identities.unlink_identity(identity=identity)

        assert team.memberships.get().role == "owner"
        assert not ClaimedRole.objects.exists()


class TestClaimedRoles:
    def test_last_owner_by_claims_keeps_the_role_without_the_claim(self, provider, team):
        set_rules(provider, role_rule(team, role="owner"))
        sign_in(provider, groups=["team"])

        sign_in(provider, groups=[])

        assert team.memberships.get().role == "owner"

    def test_rules_for_an_unknown_organization_are_ignored(self, provider):
        unknown = {"organization": "018f0000-0000-7000-8000-000000000000", "role": "admin"}
        set_rules(provider, {"claim": "groups", "value": "team"} | unknown)

        identity = sign_in(provider, groups=["team"])

        assert identity.user.memberships.get().organization.personal_of == identity.user

    def test_invalid_rule_does_not_prevent_a_sign_in_and_keeps_the_roles(
        self, provider, team, caplog
    ):
        set_rules(provider, role_rule(team))
        sign_in(provider, groups=["team"])
        set_rules(provider, {"claim": "groups"})

        sign_in(provider, groups=[])

        assert team.memberships.get().role == "admin"
        assert "Skipped the claim rules of the identity provider acme" in caplog.text

    def test_changes_of_a_claimed_role_are_in_the_audit_log(self, provider, team):
        set_rules(provider, role_rule(team), role_rule(team, role="viewer", value="guests"))
        for groups in (["team"], ["guests"], ["guests"], []):
            sign_in(provider, groups=groups)

        entries = AuditEntry.objects.filter(action="membership.claimed").order_by("position")
        assert [(entry.before, entry.after) for entry in entries] == [
            ({}, {"role": "admin"}),
            ({"role": "admin"}, {"role": "viewer"}),
            ({"role": "viewer"}, {}),
        ]
        assert {entry.reason for entry in entries} == {"claims of acme"}

    def test_highest_role_of_several_matching_rules_applies(self, provider, team):
        rules = [role_rule(team, role=role) for role in ("viewer", "admin", "billing")]

        result = claimed_roles.evaluate_rules(rules, {"groups": ["team"]})

        assert (result.roles, result.matched) == ({team.pk: "admin"}, (0, 1, 2))

    @pytest.mark.parametrize(
        ("claims", "is_staff"),
        [
            ({"groups": "ops"}, True),
            ({"groups": ["dev", "ops"]}, True),
            ({"groups": "opsx"}, False),
            ({"groups": {"ops": True}}, False),
            ({"groups": None}, False),
            ({}, False),
        ],
    )
    def test_claim_matches_as_a_text_or_as_an_element_of_a_list(self, claims, is_staff):
        assert claimed_roles.evaluate_rules([STAFF_RULE], claims).is_staff is is_staff

    def test_staff_status_of_an_administrator_is_kept_without_the_claim(self, provider):
        set_rules(provider, STAFF_RULE)
        identity = sign_in(provider, groups=[])
        User.objects.filter(pk=identity.user_id).update(is_staff=True)

        for groups in (["ops"], []):
            sign_in(provider, groups=groups)

        assert User.objects.get(pk=identity.user_id).is_staff


class TestCommand:
    def run(self, *args, **options):
        output = io.StringIO()
        call_command("map_oidc_claims", "acme", *args, stdout=output, **options)
        return output.getvalue()

    def write(self, tmp_path, text):
        path = tmp_path / "claims.json"
        path.write_text(text)
        return str(path)

    def test_claims_of_standard_input_are_previewed(self, provider, team, monkeypatch):
        set_rules(provider, role_rule(team), STAFF_RULE)
        claims = json.dumps({"groups": ["team", "ops"]})
        monkeypatch.setattr("sys.stdin", io.StringIO(claims))

        assert self.run(claims="-") == "these claims: admin in team, staff\n"
        assert not Membership.objects.filter(organization=team).exists()

    def test_claims_without_a_match_give_no_roles(self, provider, team, tmp_path):
        set_rules(provider, role_rule(team))

        output = self.run(claims=self.write(tmp_path, '{"groups": []}'))

        assert output == "these claims: no roles\n"

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [("{", "cannot be read from"), ("[1]", "must be a JSON object")],
    )
    def test_malformed_claims_are_an_error(self, provider, tmp_path, text, sentence):
        with pytest.raises(CommandError, match=sentence):
            self.run(claims=self.write(tmp_path, text))

    def test_missing_file_is_an_error(self, provider, tmp_path):
        with pytest.raises(CommandError, match="cannot be read from"):
            self.run(claims=str(tmp_path / "missing.json"))

    def test_invalid_rule_is_an_error_that_names_the_provider(self, provider, tmp_path):
        set_rules(provider, {"claim": "groups"})

        with pytest.raises(CommandError, match="A claim rule of acme is invalid"):
            self.run(claims=self.write(tmp_path, "{}"))

    def test_unknown_organization_is_named_by_its_id(self, provider, tmp_path):
        pk = "018f0000-0000-7000-8000-000000000000"
        set_rules(provider, {"claim": "groups", "value": "x", "organization": pk, "role": "viewer"})

        output = self.run(claims=self.write(tmp_path, '{"groups": "x"}'))

        assert output == f"these claims: viewer in {pk} (no such organization)\n"

    def test_dry_run_prints_each_user_and_changes_nothing(self, provider, team):
        sign_in(provider, groups=["team"])
        set_rules(provider, role_rule(team))

        output = self.run(dry_run=True)

        assert output == ("ana@example.org: admin in team\nWould apply the rules to 1 user.\n")
        assert not Membership.objects.filter(organization=team).exists()
