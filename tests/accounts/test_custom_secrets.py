"""Custom secrets and provider tokens: encryption, scopes, uses, limits."""

import pytest

from accounts.models import AuditEntry, CustomSecret, CustomSecretUse
from accounts.services import custom_secrets as verbs
from accounts.services import provider_tokens
from lib import resealing
from lib.masks import MASK

CONVERSATION = "01890000-0000-7000-8000-000000000001"


def create_secret(user, name="API_TOKEN", value="Value-0123", **fields):
    return verbs.create_secret(
        organization=user.personal_organization, by=user, name=name, value=value, **fields
    )


def build_scope(user):
    """Return the arguments that name a user in the personal organization."""
    return {"user_id": user.pk, "organization_id": user.personal_organization.pk}


def test_secret_is_stored_encrypted_and_audited_without_its_value(alice):
    secret = create_secret(alice, description="of  the\tbuild")

    row = CustomSecret.objects.get()
    assert b"Value-0123" not in bytes(row.sealed_value)
    assert (row.value, row.scope, row.description) == ("Value-0123", "user", "of the build")
    entry = AuditEntry.objects.get(action="secret.created")
    assert (entry.subject_id, entry.after) == (
        str(secret.pk),
        {"name": "API_TOKEN", "scope": "user"},
    )
    columns = {str(column): column for column in resealing.columns()}
    assert resealing.audit(columns["accounts_customsecret.sealed_value"])[1] == []


def test_name_is_unique_within_a_scope(alice, bob):
    create_secret(alice)
    create_secret(alice, is_shared=True)
    verbs.create_secret(
        organization=alice.personal_organization, by=bob, name="API_TOKEN", value="Bobs-value"
    )

    for is_shared in (False, True):
        with pytest.raises(verbs.SecretExists):
            create_secret(alice, is_shared=is_shared)


def test_users_secret_overrides_the_shared_one(alice, bob):
    create_secret(alice, value="of Alice")
    create_secret(alice, value="of all", is_shared=True)
    create_secret(alice, "OTHER", "other of all", is_shared=True)

    alices = verbs.secrets_for_conversation(**build_scope(alice))
    bobs = verbs.secrets_for_conversation(
        user_id=bob.pk, organization_id=alice.personal_organization.pk
    )

    assert {n: s.value for n, s in alices.items()} == {
        "API_TOKEN": "of Alice",
        "OTHER": "other of all",
    }
    assert {n: s.value for n, s in bobs.items()} == {"API_TOKEN": "of all", "OTHER": "other of all"}
    assert verbs.secrets_for_conversation(**build_scope(bob)) == {}


def test_use_returns_the_value_and_is_recorded(alice):
    secret = create_secret(alice)

    value = verbs.use_secret(**build_scope(alice), conversation_id=CONVERSATION, name="API_TOKEN")

    use = CustomSecretUse.objects.get()
    assert (value, use.secret_id, str(use.conversation_id)) == (
        "Value-0123",
        secret.pk,
        CONVERSATION,
    )
    with pytest.raises(verbs.UnknownSecret):
        verbs.use_secret(**build_scope(alice), conversation_id=CONVERSATION, name="OTHER")


def test_change_of_one_field_leaves_the_others(alice):
    secret = create_secret(alice, description="first")

    verbs.change_secret(secret=secret, name="RENAMED")
    assert CustomSecret.objects.get().value == "Value-0123"
    verbs.change_secret(secret=secret, value="Other-value")
    row = CustomSecret.objects.get()
    assert (row.name, row.value, row.description) == ("RENAMED", "Other-value", "first")
    changed = AuditEntry.objects.filter(action="secret.changed").order_by("position")
    assert [e.after for e in changed] == [{"name": "RENAMED"}, {"value_replaced": True}]


def test_renaming_to_an_existing_name_raises_secret_exists(alice):
    create_secret(alice)
    other = create_secret(alice, "OTHER")

    with pytest.raises(verbs.SecretExists):
        verbs.change_secret(secret=other, name="API_TOKEN")


def test_deleted_secret_cannot_be_used(alice):
    secret = create_secret(alice)

    verbs.delete_secret(secret=secret)
    verbs.delete_secret(secret=secret)

    with pytest.raises(verbs.UnknownSecret):
        verbs.use_secret(**build_scope(alice), conversation_id=CONVERSATION, name="API_TOKEN")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""}, {"name": "1A"}, {"name": "a-b"}, {"name": "a b"}, {"name": "ä"}, {"name": "x" * 101},
        {"name": "PATH"}, {"name": "ld_preload"}, {"value": ""}, {"value": MASK}, {"value": "a\0b"},
        {"value": "\ud800"}, {"value": "x" * 50_001}, {"description": "x" * 501},
    ],
)  # fmt: skip
def test_invalid_secret_is_refused(alice, fields):
    with pytest.raises(verbs.InvalidSecret):
        create_secret(alice, **fields)


def test_secret_beyond_the_maximum_raises_too_many_secrets(alice, monkeypatch):
    monkeypatch.setattr(verbs, "SECRETS_MAX", 1)
    create_secret(alice)

    with pytest.raises(verbs.TooManySecrets):
        create_secret(alice, "OTHER")
    create_secret(alice, is_shared=True)


class TestProviderTokens:
    def test_token_is_replaced_listed_used_and_removed(self, alice):
        for host in ("", "https://GitHub.example.com/"):
            provider_tokens.set_provider_token(
                user=alice, organization=alice.personal_organization, provider="github",
                token="ghp_Secret123", host=host,
            )  # fmt: skip

        assert provider_tokens.provider_hosts(**build_scope(alice)) == {
            "github": "github.example.com"
        }
        [row] = provider_tokens.provider_tokens(**build_scope(alice))
        assert b"ghp_" not in bytes(row.sealed_token)
        assert row.last_used_at is None
        credential = provider_tokens.use_token(**build_scope(alice), provider="github")
        assert (credential.token, credential.host) == ("ghp_Secret123", "github.example.com")
        assert "ghp_" not in repr(credential)
        row.refresh_from_db()
        assert row.last_used_at is not None
        provider_tokens.remove_provider_token(
            user=alice, organization=alice.personal_organization, provider="github"
        )
        assert provider_tokens.provider_hosts(**build_scope(alice)) == {}
        with pytest.raises(provider_tokens.NoProviderToken):
            provider_tokens.use_token(**build_scope(alice), provider="github")

    @pytest.mark.parametrize(
        "fields",
        [
            {"provider": "sourceforge"}, {"token": ""}, {"token": "a b"}, {"token": MASK},
            {"host": "a/b"}, {"host": "a b"}, {"host": "http://x"}, {"token": "ä"},
        ],
    )  # fmt: skip
    def test_invalid_token_is_refused(self, alice, fields):
        with pytest.raises(provider_tokens.InvalidProviderToken):
            provider_tokens.set_provider_token(
                **{
                    "user": alice, "organization": alice.personal_organization,
                    "provider": "github", "token": "x",
                } | fields
            )  # fmt: skip

    def test_values_to_hide_are_the_secrets_of_user_and_organization(self, alice, bob):
        create_secret(alice)
        create_secret(alice, "SHORT", "12345")
        create_secret(alice, "SHARED", "Shared-value", is_shared=True)
        provider_tokens.set_provider_token(
            user=alice, organization=alice.personal_organization, provider="github", token="ghp_Sec"
        )

        assert verbs.values_to_hide(**build_scope(alice)) == [
            "Shared-value",
            "Value-0123",
            "ghp_Sec",
        ]
        assert verbs.values_to_hide(
            user_id=bob.pk, organization_id=alice.personal_organization.pk
        ) == ["Shared-value"]
