"""The services of settings: effective values, their sources, changes, secrets."""

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


def change_settings(user, **values):
    return verbs.change_settings(user=user, organization=user.personal_organization, values=values)


def set_organization_settings(user, *names, **values):
    return verbs.change_organization_settings(
        organization=user.personal_organization, values=values, enforced=names
    )


def read_effective(user):
    return verbs.effective_settings(user_id=user.pk, organization_id=user.personal_organization.pk)


class TestEffectiveSettings:
    def test_values_are_the_defaults_until_set(self, alice):
        effective = read_effective(alice)

        assert effective.values == {name: field.default for name, field in FIELDS.items()}
        assert set(effective.set_by.values()) == {"default"}
        assert effective.version == 0

    def test_users_value_overrides_the_organizations_and_the_default(self, alice):
        set_organization_settings(alice, language="fr", max_iterations=70)
        change_settings(alice, language="de")

        effective = read_effective(alice)

        assert (effective.values["language"], effective.set_by["language"]) == ("de", "user")
        assert (effective.values["max_iterations"], effective.set_by["max_iterations"]) == (
            70,
            "organization",
        )
        assert effective.set_by["agent"] == "default"

    def test_enforced_value_overrides_the_users_and_cannot_be_changed(self, alice):
        change_settings(alice, confirmation_mode=False, language="de")
        set_organization_settings(alice, "confirmation_mode", confirmation_mode=True)

        effective = read_effective(alice)

        assert (effective.values["confirmation_mode"], effective.set_by["confirmation_mode"]) == (
            True,
            "enforced",
        )
        with pytest.raises(verbs.EnforcedSetting):
            change_settings(alice, confirmation_mode=False, language="it")
        assert read_effective(alice).values["language"] == "de"
        assert (
            change_settings(alice, confirmation_mode=True).set_by["confirmation_mode"] == "enforced"
        )

    def test_enforced_setting_without_a_value_is_the_default(self, alice):
        change_settings(alice, max_iterations=9)
        set_organization_settings(alice, "max_iterations")

        assert read_effective(alice).values["max_iterations"] == 500

    def test_value_of_one_organization_does_not_apply_in_another(self, alice, bob):
        change_settings(alice, language="fr")

        assert read_effective(bob).values["language"] == "en"
        assert (
            verbs.effective_settings(
                user_id=bob.pk, organization_id=alice.personal_organization.pk
            ).values["language"]
            == "en"
        )


class TestSettingsByKey:
    def build_reader(self, key, organization):
        """Return a function that reads the effective settings with this key."""
        user = accounts.authenticate_api_key(key).user
        return lambda: verbs.effective_settings_for_key(user, organization.pk, "settings.view")

    def test_key_reads_the_effective_settings(self, alice):
        set_organization_settings(alice, "language", language="fr", search_api_key="tvly-Shared-1")
        change_settings(alice, max_iterations=9, mcp_config=MCP)
        _, key = accounts.issue_api_key(user=alice, name="x")

        assert self.build_reader(key, alice.personal_organization)() == read_effective(alice)

    def test_key_reads_none_elsewhere_or_in_a_suspended_organization(self, alice, bob):
        shared = alice.personal_organization
        _, key = accounts.issue_api_key(user=bob, organization=shared, name="x")
        read = self.build_reader(key, shared)

        assert read() is not None
        assert self.build_reader(key, bob.personal_organization)() is None
        assert verbs.effective_settings_for_key(bob, shared.pk, "settings.view") is None
        Organization.objects.update(suspended_at=timezone.now())
        assert read() is None


class TestChangeSettings:
    def test_none_restores_the_organizations_value(self, alice):
        set_organization_settings(alice, language="fr")
        change_settings(alice, language="de")

        effective = change_settings(alice, language=None)

        assert (effective.values["language"], effective.set_by["language"]) == (
            "fr",
            "organization",
        )

    def test_stale_version_changes_nothing(self, alice):
        first = change_settings(alice, language="de")
        change_settings(alice, language="it")

        with pytest.raises(verbs.StaleSettings) as refusal:
            verbs.change_settings(
                user=alice,
                organization=alice.personal_organization,
                values={"language": "fr"},
                version=first.version,
            )

        assert refusal.value.extra == {"version": 2}
        assert read_effective(alice).values["language"] == "it"

    def test_equal_values_do_not_change_the_version(self, alice):
        first = change_settings(alice, language="de", mcp_config=MCP)

        assert change_settings(alice, language="de", mcp_config=MCP).version == first.version
        assert AuditEntry.objects.filter(action="settings.changed").count() == 1

    def test_one_bad_value_prevents_the_whole_change(self, alice):
        with pytest.raises(InvalidSetting) as refusal:
            change_settings(alice, language="de", max_iterations=0)

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
            ("git_user_email", "no-address"),
            ("search_api_key", "x\ud800"),
            ("mcp_config", []),
            ("mcp_config", {"other": []}),
            ("mcp_config", {"sse_servers": ["ftp://x.example.com"]}),
            ("mcp_config", {"sse_servers": ["https://u:p@x.example.com"]}),
            ("mcp_config", {"stdio_servers": [{"name": "a", "command": "x\ud800"}]}),
            ("mcp_config", {"stdio_servers": [{"name": "a", "command": "x"}] * 2}),
        ],
    )
    def test_invalid_value_raises_invalid_setting(self, alice, name, value):
        with pytest.raises(InvalidSetting):
            change_settings(alice, **{name: value})

    def test_whole_float_is_stored_as_an_integer(self, alice):
        effective = change_settings(alice, max_iterations=60.0)

        assert effective.values["max_iterations"] == 60
        assert type(effective.values["max_iterations"]) is int

    def test_unknown_name_raises_unknown_setting(self, alice):
        with pytest.raises(UnknownSetting):
            change_settings(alice, llm_model="x")


class TestSecretFields:
    @pytest.mark.parametrize(
        "mask", ["***", "tvly-********", "••••••", "abc…", "x.....y", "<secret_hidden>"]
    )
    def test_mask_of_another_program_is_refused(self, alice, mask):
        change_settings(alice, search_api_key="tvly-Real-1")

        with pytest.raises(InvalidSetting):
            change_settings(alice, search_api_key=mask)

        assert read_effective(alice).values["search_api_key"] == "tvly-Real-1"

    def test_own_mask_keeps_the_stored_secret(self, alice):
        before = change_settings(alice, search_api_key="tvly-Real-1", mcp_config=MCP)
        sealed = UserSettings.objects.get().sealed_secrets

        after = verbs.change_settings(
            user=alice, organization=alice.personal_organization, values=before.masked_values()
        )

        assert after.values["search_api_key"] == "tvly-Real-1"
        assert after.values["mcp_config"] == before.values["mcp_config"]
        assert bytes(UserSettings.objects.get().sealed_secrets) == bytes(sealed)

    def test_own_mask_without_a_stored_secret_is_refused(self, alice):
        with pytest.raises(InvalidSetting):
            change_settings(alice, search_api_key=MASK)

    def test_none_clears_the_secret(self, alice):
        change_settings(alice, search_api_key="tvly-Real-1", mcp_config=MCP)

        assert change_settings(alice, search_api_key=None).values["search_api_key"] is None
        assert read_effective(alice).values["mcp_config"]["sse_servers"] == [
            "https://sse.example.com"
        ]
        change_settings(alice, mcp_config=None)
        assert UserSettings.objects.get().sealed_secrets is None

    def test_secrets_are_stored_encrypted_in_a_resealable_column(self, alice):
        change_settings(alice, search_api_key="tvly-Real-1", mcp_config=MCP)
        row = UserSettings.objects.get()

        assert b"tvly-Real-1" not in bytes(row.sealed_secrets)
        assert not row.values
        columns = {str(column): column for column in resealing.columns()}
        keys, broken = resealing.audit(columns["accounts_usersettings.sealed_secrets"])
        assert (sum(keys.values()), broken) == (1, [])

    def test_audit_entry_has_no_secret_value(self, alice):
        change_settings(alice, search_api_key="tvly-Real-1", mcp_config=MCP, language="de")

        entry = AuditEntry.objects.get(action="settings.changed")
        assert entry.after == {
            "search_api_key": "set",
            "mcp_config": True,
            "language": "de",
            "version": 1,
        }


class TestMcpServers:
    @pytest.mark.parametrize(
        ("config", "sentence"),
        [
            ({"sse_servers": "x"}, "must be a list"),
            ({"sse_servers": ["https://x.example.com"] * 51}, "enter at most 50 servers"),
            ({"sse_servers": [5]}, "a URL or an object with `url`, `api_key` and `timeout`"),
            ({"sse_servers": [{"url": "https://x.example.com", "other": 1}]}, "a URL or"),
            ({"sse_servers": [{"url": 5}]}, "needs a URL of up to 2000"),
            ({"sse_servers": ["https://[x"]}, "must start with http:// or https://"),
            (
                {"shttp_servers": [{"url": "https://x.example.com", "api_key": 5}]},
                "`api_key` must have",
            ),
            (
                {"shttp_servers": [{"url": "https://x.example.com", "timeout": 0}]},
                "`timeout` must be",
            ),
            (
                {"shttp_servers": [{"url": "https://x.example.com", "timeout": True}]},
                "`timeout` must be",
            ),
            ({"stdio_servers": ["uvx"]}, "an object with `name`, `command`, `args` and `env`"),
            ({"stdio_servers": [{"name": "a b", "command": "x"}]}, "the name of a stdio server"),
            ({"stdio_servers": [{"name": "a", "command": " "}]}, "needs a command"),
            ({"stdio_servers": [{"name": "a", "command": "x", "args": [1]}]}, "`args` must be"),
            ({"stdio_servers": [{"name": "a", "command": "x", "env": [1]}]}, "`env` must be"),
            (
                {"stdio_servers": [{"name": "a", "command": "x", "env": {"1": "y"}}]},
                "`env` must map",
            ),
        ],
    )
    def test_invalid_server_is_refused_with_the_reason(self, alice, config, sentence):
        with pytest.raises(InvalidSetting) as error:
            change_settings(alice, mcp_config=config)

        assert sentence in error.value.detail
        assert error.value.extra == {"field": "mcp_config"}

    def test_masked_values_hide_the_secrets_of_servers(self, alice):
        masked = change_settings(alice, mcp_config=MCP).masked_values()["mcp_config"]

        assert masked == {
            "sse_servers": ["https://sse.example.com"],
            "shttp_servers": [{"url": "https://mcp.example.com/mcp", "api_key": MASK}],
            "stdio_servers": [{"name": "fetch", "command": "uvx", "env": {"TOKEN": MASK}}],
        }

    def test_adding_a_server_keeps_the_secrets_of_the_others(self, alice):
        masked = change_settings(alice, mcp_config=MCP).masked_values()["mcp_config"]
        masked["sse_servers"].append("https://two.example.com")
        masked["shttp_servers"][0]["timeout"] = 30

        effective = change_settings(alice, mcp_config=masked).values["mcp_config"]

        assert effective["shttp_servers"] == [MCP["shttp_servers"][0] | {"timeout": 30}]
        assert effective["stdio_servers"] == MCP["stdio_servers"]
        assert len(effective["sse_servers"]) == 2

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
    def test_mask_for_another_server_or_command_is_refused(self, alice, server):
        change_settings(alice, mcp_config=MCP)

        with pytest.raises(InvalidSetting):
            change_settings(alice, mcp_config=server)

    def test_masked_secrets_of_the_organization_are_not_copied_to_the_user(self, alice):
        set_organization_settings(alice, mcp_config=MCP)
        masked = read_effective(alice).masked_values()["mcp_config"]

        assert change_settings(alice, mcp_config=masked).set_by["mcp_config"] == "organization"
        with pytest.raises(InvalidSetting):
            change_settings(alice, mcp_config=masked | {"sse_servers": []})


class TestOrganizationSettings:
    def test_sending_back_the_masked_values_changes_nothing(self, alice):
        set_organization_settings(alice, "language", language="fr", search_api_key="tvly-Shared-1")
        row = OrganizationSettings.objects.get()

        masked = verbs.masked_values(row)

        assert (masked["language"], masked["search_api_key"], masked["agent"]) == ("fr", MASK, None)
        again = verbs.change_organization_settings(
            organization=alice.personal_organization, values=masked
        )
        assert (again.version, again.enforced) == (row.version, ["language"])
        assert again.secrets == {"search_api_key": "tvly-Shared-1"}

    def test_stale_version_is_refused(self, alice):
        set_organization_settings(alice, language="fr")

        with pytest.raises(verbs.StaleSettings):
            verbs.change_organization_settings(
                organization=alice.personal_organization, values={}, enforced=[], version=0
            )
