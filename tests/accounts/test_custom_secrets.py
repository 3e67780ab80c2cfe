"""Custom secrets: kept sealed, one's own before the organization's, every use written down."""

import pytest

from accounts.models import AuditEntry, CustomSecret, CustomSecretUse
from accounts.services import custom_secrets as verbs
from accounts.services import provider_tokens
from lib import resealing
from lib.masks import MASK

CONVERSATION = "01890000-0000-7000-8000-000000000001"


def make(user, name="API_TOKEN", value="Value-0123", **more):
    return verbs.create_secret(
        organization=user.personal_organization, by=user, name=name, value=value, **more
    )


def of(user):
    return {"user_id": user.pk, "organization_id": user.personal_organization.pk}


def test_a_secret_is_kept_sealed_and_told_to_nobody(alice):
    secret = make(alice, description="of  the\tbuild")

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


def test_a_name_is_used_once_in_a_scope(alice, bob):
    make(alice)
    make(alice, is_shared=True)
    verbs.create_secret(
        organization=alice.personal_organization, by=bob, name="API_TOKEN", value="Bobs-value"
    )

    for is_shared in (False, True):
        with pytest.raises(verbs.SecretExists):
            make(alice, is_shared=is_shared)


def test_ones_own_comes_before_the_shared_one(alice, bob):
    make(alice, value="of Alice")
    make(alice, value="of all", is_shared=True)
    make(alice, "OTHER", "other of all", is_shared=True)

    own = verbs.secrets_for_conversation(**of(alice))
    his = verbs.secrets_for_conversation(
        user_id=bob.pk, organization_id=alice.personal_organization.pk
    )

    assert {n: s.value for n, s in own.items()} == {
        "API_TOKEN": "of Alice",
        "OTHER": "other of all",
    }
    assert {n: s.value for n, s in his.items()} == {"API_TOKEN": "of all", "OTHER": "other of all"}
    assert verbs.secrets_for_conversation(**of(bob)) == {}


def test_a_use_is_written_down(alice):
    secret = make(alice)

    value = verbs.use_secret(**of(alice), conversation_id=CONVERSATION, name="API_TOKEN")

    use = CustomSecretUse.objects.get()
    assert (value, use.secret_id, str(use.conversation_id)) == (
        "Value-0123",
        secret.pk,
        CONVERSATION,
    )
    with pytest.raises(verbs.UnknownSecret):
        verbs.use_secret(**of(alice), conversation_id=CONVERSATION, name="OTHER")


def test_what_is_changed_is_changed_and_the_rest_stays(alice):
    secret = make(alice, description="first")

    verbs.change_secret(secret=secret, name="RENAMED")
    assert CustomSecret.objects.get().value == "Value-0123"
    verbs.change_secret(secret=secret, value="Other-value")
    row = CustomSecret.objects.get()
    assert (row.name, row.value, row.description) == ("RENAMED", "Other-value", "first")
    changed = AuditEntry.objects.filter(action="secret.changed").order_by("position")
    assert [e.after for e in changed] == [{"name": "RENAMED"}, {"value_replaced": True}]


def test_a_taken_name_is_refused_on_renaming(alice):
    make(alice)
    other = make(alice, "OTHER")

    with pytest.raises(verbs.SecretExists):
        verbs.change_secret(secret=other, name="API_TOKEN")


def test_a_deleted_secret_is_gone_for_sandboxes(alice):
    secret = make(alice)

    verbs.delete_secret(secret=secret)
    verbs.delete_secret(secret=secret)

    with pytest.raises(verbs.UnknownSecret):
        verbs.use_secret(**of(alice), conversation_id=CONVERSATION, name="API_TOKEN")


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""}, {"name": "1A"}, {"name": "a-b"}, {"name": "a b"}, {"name": "ä"}, {"name": "x" * 101},
        {"name": "PATH"}, {"name": "ld_preload"}, {"value": ""}, {"value": MASK}, {"value": "a\0b"},
        {"value": "\ud800"}, {"value": "x" * 50_001}, {"description": "x" * 501},
    ],
)  # fmt: skip
def test_refuses(alice, bad):
    with pytest.raises(verbs.InvalidSecret):
        make(alice, **bad)


def test_there_is_an_end_to_secrets(alice, monkeypatch):
    monkeypatch.setattr(verbs, "SECRETS_MAX", 1)
    make(alice)

    with pytest.raises(verbs.TooManySecrets):
        make(alice, "OTHER")
    make(alice, is_shared=True)


class TestProviderTokens:
    def test_set_list_use_remove(self, alice):
        for host in ("", "https://GitHub.example.com/"):
            provider_tokens.set_provider_token(
                user=alice, organization=alice.personal_organization, provider="github",
                token="ghp_Secret123", host=host,
            )  # fmt: skip

        assert provider_tokens.provider_hosts(**of(alice)) == {"github": "github.example.com"}
        [row] = provider_tokens.provider_tokens(**of(alice))
        assert b"ghp_" not in bytes(row.sealed_token)
        assert row.last_used_at is None
        credential = provider_tokens.use_token(**of(alice), provider="github")
        assert (credential.token, credential.host) == ("ghp_Secret123", "github.example.com")
        assert "ghp_" not in repr(credential)
        row.refresh_from_db()
        assert row.last_used_at is not None
        provider_tokens.remove_provider_token(
            user=alice, organization=alice.personal_organization, provider="github"
        )
        assert provider_tokens.provider_hosts(**of(alice)) == {}
        with pytest.raises(provider_tokens.NoProviderToken):
            provider_tokens.use_token(**of(alice), provider="github")

    @pytest.mark.parametrize(
        "bad",
        [
            {"provider": "sourceforge"}, {"token": ""}, {"token": "a b"}, {"token": MASK},
            {"host": "a/b"}, {"host": "a b"}, {"host": "http://x"}, {"token": "ä"},
        ],
    )  # fmt: skip
    def test_refuses(self, alice, bad):
        with pytest.raises(provider_tokens.InvalidProviderToken):
            provider_tokens.set_provider_token(
                **{
                    "user": alice, "organization": alice.personal_organization,
                    "provider": "github", "token": "x",
                } | bad
            )  # fmt: skip

    def test_values_to_hide_are_the_conversations(self, alice, bob):
        make(alice)
        make(alice, "SHORT", "12345")
        make(alice, "SHARED", "Shared-value", is_shared=True)
        provider_tokens.set_provider_token(
            user=alice, organization=alice.personal_organization, provider="github", token="ghp_Sec"
        )

        assert verbs.values_to_hide(**of(alice)) == ["Shared-value", "Value-0123", "ghp_Sec"]
        assert verbs.values_to_hide(
            user_id=bob.pk, organization_id=alice.personal_organization.pk
        ) == ["Shared-value"]
