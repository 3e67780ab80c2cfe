"""Settings: what is in force, who set it, and how it is changed."""

import pytest
from django.utils import timezone

from accounts import services as accounts
from accounts.models import AuditEntry, Organization, OrganizationSettings, UserSettings
from accounts.services import user_settings as verbs
from accounts.settings.fields import FIELDS, InvalidSetting, UnknownSetting
from lib import resealing
from lib.masks import MASK

MCP = {
    "sse_servers": ["https://sse.example.com"],
    "shttp_servers": [{"url": "https://mcp.example.com/mcp", "api_key": "mcp-Key-0123456789"}],
    "stdio_servers": [{"name": "fetch", "command": "uvx", "env": {"TOKEN": "env-Secret-987"}}],
}


def change(user, **values):
    return verbs.change_settings(user=user, organization=user.personal_organization, values=values)


def enforce(user, *names, **values):
    return verbs.change_organization_settings(
        organization=user.personal_organization, values=values, enforced=names
    )


def in_force(user):
    return verbs.effective_settings(user_id=user.pk, organization_id=user.personal_organization.pk)


class TestEffectiveSettings:
    def test_defaults_at_first(self, alice):
        found = in_force(alice)

        assert found.values == {name: field.default for name, field in FIELDS.items()}
        assert set(found.set_by.values()) == {"default"}
        assert found.version == 0

    def test_the_user_before_the_organization_before_the_default(self, alice):
        enforce(alice, language="fr", max_iterations=70)
        change(alice, language="de")

        found = in_force(alice)

        assert (found.values["language"], found.set_by["language"]) == ("de", "user")
        assert (found.values["max_iterations"], found.set_by["max_iterations"]) == (
            70,
            "organization",
        )
        assert found.set_by["agent"] == "default"

    def test_what_is_enforced_wins_and_cannot_be_changed(self, alice):
        change(alice, confirmation_mode=False, language="de")
        enforce(alice, "confirmation_mode", confirmation_mode=True)

        found = in_force(alice)

        assert (found.values["confirmation_mode"], found.set_by["confirmation_mode"]) == (
            True,
            "enforced",
        )
        with pytest.raises(verbs.EnforcedSetting):
            change(alice, confirmation_mode=False, language="it")
        assert in_force(alice).values["language"] == "de"
        assert change(alice, confirmation_mode=True).set_by["confirmation_mode"] == "enforced"

    def test_enforced_without_a_value_is_the_default(self, alice):
        change(alice, max_iterations=9)
        enforce(alice, "max_iterations")

        assert in_force(alice).values["max_iterations"] == 500

    def test_another_organization_is_another_matter(self, alice, bob):
        change(alice, language="fr")

        assert in_force(bob).values["language"] == "en"
        assert (
            verbs.effective_settings(
                user_id=bob.pk, organization_id=alice.personal_organization.pk
            ).values["language"]
            == "en"
        )


class TestSettingsByKey:
    def by_key(self, key, organization):
        user = accounts.authenticate_api_key(key).user
        return lambda: verbs.effective_settings_for_key(user, organization.pk, "settings.view")

    def test_is_what_is_in_force(self, alice):
        enforce(alice, "language", language="fr", search_api_key="tvly-Shared-1")
        change(alice, max_iterations=9, mcp_config=MCP)
        _, key = accounts.issue_api_key(user=alice, name="x")

        assert self.by_key(key, alice.personal_organization)() == in_force(alice)

    def test_is_nothing_elsewhere_or_where_the_organization_is_closed(self, alice, bob):
        shared = alice.personal_organization
        _, key = accounts.issue_api_key(user=bob, organization=shared, name="x")
        found = self.by_key(key, shared)

        assert found() is not None
        assert self.by_key(key, bob.personal_organization)() is None
        assert verbs.effective_settings_for_key(bob, shared.pk, "settings.view") is None
        Organization.objects.update(suspended_at=timezone.now())
        assert found() is None


class TestChangeSettings:
    def test_none_takes_the_choice_back(self, alice):
        enforce(alice, language="fr")
        change(alice, language="de")

        found = change(alice, language=None)

        assert (found.values["language"], found.set_by["language"]) == ("fr", "organization")

    def test_a_stale_version_changes_nothing(self, alice):
        first = change(alice, language="de")
        change(alice, language="it")

        with pytest.raises(verbs.StaleSettings) as refusal:
            verbs.change_settings(
                user=alice,
                organization=alice.personal_organization,
                values={"language": "fr"},
                version=first.version,
            )

        assert refusal.value.extra == {"version": 2}
        assert in_force(alice).values["language"] == "it"

    def test_nothing_new_is_no_change(self, alice):
        first = change(alice, language="de", mcp_config=MCP)

        assert change(alice, language="de", mcp_config=MCP).version == first.version
        assert AuditEntry.objects.filter(action="settings.changed").count() == 1

    def test_one_bad_value_and_nothing_is_changed(self, alice):
        with pytest.raises(InvalidSetting) as refusal:
            change(alice, language="de", max_iterations=0)

        assert refusal.value.extra == {"field": "max_iterations"}
        assert not UserSettings.objects.exists()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("language", 5),
            ("language", "a\0"),
            ("agent", "OtherAgent"),
            ("agent", ["CodeActAgent"]),
            ("confirmation_mode", 1),
            ("confirmation_mode", "yes"),
            ("security_analyzer", "invariant"),
            ("condenser_max_size", 19),
            ("condenser_max_size", True),
            ("max_iterations", 1.5),
            ("git_user_email", "nobody"),
            ("search_api_key", "x\ud800"),
            ("mcp_config", []),
            ("mcp_config", {"other": []}),
            ("mcp_config", {"sse_servers": ["ftp://x.example.com"]}),
            ("mcp_config", {"sse_servers": ["https://u:p@x.example.com"]}),
            ("mcp_config", {"stdio_servers": [{"name": "a", "command": "x\ud800"}]}),
            ("mcp_config", {"stdio_servers": [{"name": "a", "command": "x"}] * 2}),
        ],
    )
    def test_refuses(self, alice, name, value):
        with pytest.raises(InvalidSetting):
            change(alice, **{name: value})

    def test_an_unknown_name_is_refused(self, alice):
        with pytest.raises(UnknownSetting):
            change(alice, llm_model="x")


class TestSecretFields:
    @pytest.mark.parametrize(
        "mask", ["***", "tvly-********", "••••••", "abc…", "x.....y", "<secret_hidden>"]
    )
    def test_no_mask_is_taken_for_a_value(self, alice, mask):
        change(alice, search_api_key="tvly-Real-1")

        with pytest.raises(InvalidSetting):
            change(alice, search_api_key=mask)

        assert in_force(alice).values["search_api_key"] == "tvly-Real-1"

    def test_the_mask_it_is_shown_as_keeps_it(self, alice):
        before = change(alice, search_api_key="tvly-Real-1", mcp_config=MCP)
        sealed = UserSettings.objects.get().sealed_secrets

        after = verbs.change_settings(
            user=alice, organization=alice.personal_organization, values=before.masked_values()
        )

        assert after.values["search_api_key"] == "tvly-Real-1"
        assert after.values["mcp_config"] == before.values["mcp_config"]
        assert bytes(UserSettings.objects.get().sealed_secrets) == bytes(sealed)

    def test_the_mask_of_nothing_is_refused(self, alice):
        with pytest.raises(InvalidSetting):
            change(alice, search_api_key=MASK)

    def test_none_clears(self, alice):
        change(alice, search_api_key="tvly-Real-1", mcp_config=MCP)

        assert change(alice, search_api_key=None).values["search_api_key"] is None
        assert in_force(alice).values["mcp_config"]["sse_servers"] == ["https://sse.example.com"]
        change(alice, mcp_config=None)
        assert UserSettings.objects.get().sealed_secrets is None

    def test_they_are_sealed_and_can_be_resealed(self, alice):
        change(alice, search_api_key="tvly-Real-1", mcp_config=MCP)
        row = UserSettings.objects.get()

        assert b"tvly-Real-1" not in bytes(row.sealed_secrets)
        assert not row.values
        columns = {str(column): column for column in resealing.columns()}
        keys, broken = resealing.audit(columns["accounts_usersettings.sealed_secrets"])
        assert (sum(keys.values()), broken) == (1, [])

    def test_the_audit_log_knows_names_only(self, alice):
        change(alice, search_api_key="tvly-Real-1", mcp_config=MCP, language="de")

        entry = AuditEntry.objects.get(action="settings.changed")
        assert entry.after == {
            "search_api_key": "set",
            "mcp_config": True,
            "language": "de",
            "version": 1,
        }


class TestMcpServers:
    def test_is_shown_without_its_secrets(self, alice):
        shown = change(alice, mcp_config=MCP).masked_values()["mcp_config"]

        assert shown == {
            "sse_servers": ["https://sse.example.com"],
            "shttp_servers": [{"url": "https://mcp.example.com/mcp", "api_key": MASK}],
            "stdio_servers": [{"name": "fetch", "command": "uvx", "env": {"TOKEN": MASK}}],
        }

    def test_a_server_more_keeps_the_secrets_of_the_others(self, alice):
        shown = change(alice, mcp_config=MCP).masked_values()["mcp_config"]
        shown["sse_servers"].append("https://two.example.com")
        shown["shttp_servers"][0]["timeout"] = 30

        found = change(alice, mcp_config=shown).values["mcp_config"]

        assert found["shttp_servers"] == [MCP["shttp_servers"][0] | {"timeout": 30}]
        assert found["stdio_servers"] == MCP["stdio_servers"]
        assert len(found["sse_servers"]) == 2

    @pytest.mark.parametrize(
        "server",
        [
            {"shttp_servers": [{"url": "https://evil.example.com/mcp", "api_key": MASK}]},
            {"stdio_servers": [{"name": "fetch", "command": "env", "env": {"TOKEN": MASK}}]},
            {"stdio_servers": [{"name": "fetch", "command": "uvx", "env": {"OTHER": MASK}}]},
            {
                "stdio_servers": [
                    {"name": "fetch", "command": "uvx", "args": ["evil"], "env": {"TOKEN": MASK}}
                ]
            },
        ],
    )
    def test_a_stored_secret_goes_to_no_other_server(self, alice, server):
        change(alice, mcp_config=MCP)

        with pytest.raises(InvalidSetting):
            change(alice, mcp_config=server)

    def test_the_organizations_secrets_do_not_become_the_users(self, alice):
        enforce(alice, mcp_config=MCP)
        shown = in_force(alice).masked_values()["mcp_config"]

        assert change(alice, mcp_config=shown).set_by["mcp_config"] == "organization"
        with pytest.raises(InvalidSetting):
            change(alice, mcp_config=shown | {"sse_servers": []})


class TestOrganizationSettings:
    def test_shows_and_keeps_what_is_set(self, alice):
        enforce(alice, "language", language="fr", search_api_key="tvly-Shared-1")
        row = OrganizationSettings.objects.get()

        shown = verbs.masked_values(row)

        assert (shown["language"], shown["search_api_key"], shown["agent"]) == ("fr", MASK, None)
        again = verbs.change_organization_settings(
            organization=alice.personal_organization, values=shown
        )
        assert (again.version, again.enforced) == (row.version, ["language"])
        assert again.secrets == {"search_api_key": "tvly-Shared-1"}

    def test_a_stale_version_is_refused(self, alice):
        enforce(alice, language="fr")

        with pytest.raises(verbs.StaleSettings):
            verbs.change_organization_settings(
                organization=alice.personal_organization, values={}, enforced=[], version=0
            )
