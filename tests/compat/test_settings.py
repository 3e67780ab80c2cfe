"""``/api/settings``, ``/api/reset-settings`` and ``/api/options/models``: the routes of OpenHands' clients."""

import json

import pytest

from accounts.models import UserSettings
from accounts.services import provider_tokens, user_settings
from billing import services
from billing.models import ModelAccess
from integrations.provider import TokenRefused
from lib.masks import MASK
from tests.conftest import key_client

URL = "/api/settings"
MCP = {
    "sse_servers": [],
    "stdio_servers": [
        {"name": "fetch", "command": "uvx", "args": ["x"], "env": {"K": "env-Sec-1"}}
    ],
    "shttp_servers": [
        {"url": "https://mcp.example.com/mcp", "api_key": "mcp-Sec-1", "timeout": 30}
    ],
}
DEFAULTS = {
    "language": "en",
    "agent": "CodeActAgent",
    "max_iterations": 500,
    "confirmation_mode": False,
    "security_analyzer": "llm",
    "enable_default_condenser": True,
    "condenser_max_size": 80,
    "max_budget_per_task": None,
    "git_user_name": "",
    "git_user_email": "",
    "remote_runtime_resource_factor": 1,
    "enable_sound_notifications": False,
    "enable_proactive_conversation_starters": True,
    "enable_solvability_analysis": True,
    "user_consents_to_analytics": False,
    "search_api_key": None,
    "search_api_key_set": False,
    "mcp_config": {"sse_servers": [], "stdio_servers": [], "shttp_servers": []},
    "llm_model": "demo",
    "llm_base_url": "",
    "llm_api_key": None,
    "llm_api_key_set": False,
    "provider_tokens_set": {},
    "email": "alice@example.com",
    "email_verified": True,
}
SAAS_FORM = (
    "llm_model", "llm_base_url", "agent", "language", "confirmation_mode", "security_analyzer",
    "remote_runtime_resource_factor", "enable_default_condenser", "condenser_max_size",
    "enable_sound_notifications", "user_consents_to_analytics", "provider_tokens_set", "mcp_config",
    "enable_proactive_conversation_starters", "enable_solvability_analysis", "max_budget_per_task",
    "git_user_name", "git_user_email",
)  # fmt: skip


def post_settings(client, **body):
    response = client.post(URL, body, format="json")
    assert response.status_code == 200, response.content
    return client.get(URL).json()


def encode_secrets(secrets):
    return json.dumps(secrets, sort_keys=True).encode()


def read_secrets(user):
    """Return a user's secrets in plain text: settings, model key and Git token; and the effective settings."""
    organization = user.personal_organization
    in_force = user_settings.effective_settings(user_id=user.pk, organization_id=organization.pk)
    row = UserSettings.objects.get(user=user)
    access = services.get_model_access(organization_id=organization.pk, user_id=user.pk)
    token = provider_tokens.use_token(
        user_id=user.pk, organization_id=organization.pk, provider="github"
    )
    return (
        encode_secrets(row.secrets),
        access.api_key().encode(),
        token.token.encode(),
        in_force.values,
    )


@pytest.fixture
def configured(alice, api):
    """A client of Alice, with every secret setting stored."""
    post_settings(
        api, llm_model="openai/gpt-5.1", llm_base_url="", llm_api_key="sk-Sec-1", search_api_key="tvly-Sec-1",
        mcp_config=MCP, max_budget_per_task=2.5,
    )  # fmt: skip
    provider_tokens.set_provider_token(
        user=alice, organization=alice.personal_organization, provider="github", token="ghp_Sec1",
        host="github.example.com",
    )  # fmt: skip
    return api


class TestReadSettings:
    def test_new_user_gets_the_default_settings(self, api):
        response = api.get(URL)

        assert response.status_code == 200
        assert response.json() == DEFAULTS

    def test_stored_secrets_are_shown_as_flags_and_masks(self, configured):
        response = configured.get(URL)

        assert response.json() == DEFAULTS | {
            "llm_model": "openai/gpt-5.1",
            "llm_api_key_set": True,
            "search_api_key_set": True,
            "max_budget_per_task": 2.5,
            "provider_tokens_set": {"github": "github.example.com"},
            "mcp_config": {
                "sse_servers": [],
                "stdio_servers": [
                    {"name": "fetch", "command": "uvx", "args": ["x"], "env": {"K": MASK}}
                ],
                "shttp_servers": [
                    {"url": "https://mcp.example.com/mcp", "api_key": MASK, "timeout": 30}
                ],
            },
        }
        for secret in ("sk-Sec-1", "tvly-Sec-1", "env-Sec-1", "mcp-Sec-1", "ghp_Sec1"):
            assert secret not in response.content.decode()


class TestEchoedSettings:
    """Settings that a client reads and sends back unchanged, in the form of each client."""

    def send_v1_settings(self, client):
        read = client.get("/api/v1/settings").json()
        body = {"version": read["version"], "values": read["values"]}
        return client.patch("/api/v1/settings", body, format="json")

    def send_v1_model_access(self, client):
        read = client.get("/api/v1/settings/model-access").json()
        body = {key: value for key, value in read.items() if key not in ("has_api_key", "is_demo")}
        return client.put("/api/v1/settings/model-access", body, format="json")

    def send_saas_form(self, client):
        read = client.get(URL).json()
        body = {name: read[name] for name in SAAS_FORM} | {"search_api_key": ""}
        return client.post(URL, body, format="json")

    def send_oss_record(self, client):
        return client.post(URL, client.get(URL).json(), format="json")

    def send_oss_record_with_masks(self, client):
        read = client.get(URL).json()
        return client.post(
            URL, read | {"llm_api_key": MASK, "search_api_key": "*****"}, format="json"
        )

    def send_mcp_config(self, client):
        return client.post(URL, {"mcp_config": client.get(URL).json()["mcp_config"]}, format="json")

    @pytest.mark.parametrize(
        "form",
        [
            "send_v1_settings",
            "send_v1_model_access",
            "send_saas_form",
            "send_oss_record",
            "send_oss_record_with_masks",
            "send_mcp_config",
        ],
    )
    def test_settings_sent_back_by_any_client_keep_every_secret(self, configured, alice, form):
        before = read_secrets(alice)
        sealed = [bytes(UserSettings.objects.get().sealed_secrets)]
        sealed.append(bytes(ModelAccess.objects.get().sealed_api_key))
        record = configured.get(URL).json()

        assert getattr(self, form)(configured).status_code == 200

        assert read_secrets(alice) == before
        assert before[0] == encode_secrets({"mcp_config": MCP, "search_api_key": "tvly-Sec-1"})
        assert before[1:3] == (b"sk-Sec-1", b"ghp_Sec1")
        assert sealed == [
            bytes(UserSettings.objects.get().sealed_secrets),
            bytes(ModelAccess.objects.get().sealed_api_key),
        ]
        assert configured.get(URL).json() == record

    def test_default_settings_sent_back_store_nothing(self, api):
        assert self.send_oss_record(api).status_code == 200

        assert not UserSettings.objects.exists()
        assert not ModelAccess.objects.exists()


class TestPostSettings:
    def test_partial_post_keeps_the_other_settings(self, configured):
        settings = post_settings(configured, language="de")

        assert (settings["language"], settings["llm_model"], settings["search_api_key_set"]) == (
            "de",
            "openai/gpt-5.1",
            True,
        )

    def test_absent_key_is_kept_new_key_is_stored_and_empty_model_key_is_deleted(
        self, configured, alice
    ):
        assert post_settings(configured, llm_model="openai/gpt-5")["llm_api_key_set"] is True
        assert post_settings(configured, llm_api_key="sk-Sec-2")["llm_api_key_set"] is True
        assert ModelAccess.objects.get().api_key() == "sk-Sec-2"
        assert post_settings(configured, llm_api_key="")["llm_api_key_set"] is False
        assert post_settings(configured, search_api_key="")["search_api_key_set"] is True
        post_settings(configured, search_api_key="tvly-Sec-2")
        assert UserSettings.objects.get().secrets["search_api_key"] == "tvly-Sec-2"

    def test_post_of_mcp_config_changes_only_mcp_config(self, configured):
        before = configured.get(URL).json()
        more = before["mcp_config"] | {"sse_servers": ["https://sse.example.com"]}

        after = post_settings(configured, mcp_config=more)

        assert after == before | {"mcp_config": more}
        secrets = UserSettings.objects.get().secrets
        assert secrets["mcp_config"]["stdio_servers"] == MCP["stdio_servers"]
        assert (
            post_settings(configured, mcp_config=DEFAULTS["mcp_config"])["mcp_config"]
            == DEFAULTS["mcp_config"]
        )

    def test_model_prices_are_kept_with_the_model_and_reset_for_another_model(
        self, configured, alice
    ):
        ModelAccess.objects.update(prompt_micros_per_million=7)

        post_settings(configured, llm_api_key="sk-Sec-2")
        assert ModelAccess.objects.get().prompt_micros_per_million == 7
        post_settings(configured, llm_model="openai/gpt-5")
        assert ModelAccess.objects.get().prompt_micros_per_million == 0

    def test_own_model_server_is_stored_without_the_proxy_prefix(self, api):
        settings = post_settings(
            api, llm_model="litellm_proxy/big", llm_base_url="https://models.example.com/v1",
            llm_api_key="sk-x",
        )  # fmt: skip

        assert (settings["llm_model"], settings["llm_base_url"]) == (
            "big",
            "https://models.example.com/v1",
        )
        assert post_settings(api, **settings) == settings

    def test_stored_key_with_another_server_is_400(self, configured):
        response = configured.post(
            URL, {"llm_model": "x", "llm_base_url": "https://evil.example.com/v1"}, format="json"
        )

        assert response.status_code == 400
        assert "another server" in response.json()["error"]
        assert configured.get(URL).json()["llm_model"] == "openai/gpt-5.1"

    def test_unknown_model_without_a_server_is_400_and_changes_nothing(self, api):
        response = api.post(URL, {"llm_model": "mystery", "language": "de"}, format="json")

        assert (response.status_code, response.json()["code"]) == (400, "unknown-model-server")
        assert api.get(URL).json()["language"] == "en"

    def test_demo_model_deletes_the_stored_key(self, configured):
        settings = post_settings(configured, llm_model="demo", llm_base_url="")

        assert (settings["llm_model"], settings["llm_api_key_set"]) == ("demo", False)

    @pytest.mark.parametrize(
        ("sent", "stored"), [(None, None), ("", None), ("pattern", "pattern"), ("llm", "llm")]
    )
    def test_empty_security_analyzer_becomes_null(self, api, sent, stored):
        assert post_settings(api, security_analyzer=sent)["security_analyzer"] == stored

    def test_read_only_and_empty_fields_change_nothing(self, api):
        settings = post_settings(
            api, email="other@example.com", email_verified=False, provider_hosts={"gitlab": "x"},
            sandbox_base_container_image=None, secrets_store={"provider_tokens": {}}, anything=[],
            sandbox_api_key="", v1_enabled=True,
        )  # fmt: skip

        assert settings == DEFAULTS

    @pytest.mark.parametrize(
        "body",
        [
            {"sandbox_base_container_image": "evil"},
            {"sandbox_runtime_container_image": "evil"},
            {"sandbox_api_key": "k"},
            {"llm_temperature": 0},
            {"confirmation_policy": "always"},
            {"v1_enabled": "yes"},
            {"anything": [1]},
        ],
    )
    def test_field_that_cannot_be_stored_is_400_and_named(self, api, body):
        response = api.post(URL, {"language": "fr"} | body, format="json")

        assert response.status_code == 400
        assert response.json()["error"].startswith(f"{next(iter(body))}: ")
        assert api.get(URL).json() == DEFAULTS

    @pytest.mark.parametrize(
        "body", [{"agent": "Other"}, {"condenser_max_size": 5}, {"confirmation_mode": "x"},
                 {"llm_base_url": "ftp://x"}, {"max_budget_per_task": -1}, {"max_budget_per_task": "x"}]
    )  # fmt: skip
    def test_invalid_setting_is_400_with_a_sentence(self, api, body):
        response = api.post(URL, body, format="json")

        assert response.status_code == 400
        assert response.json()["error"]

    def test_enforced_setting_can_be_sent_back_but_not_changed(self, api, alice):
        user_settings.change_organization_settings(
            organization=alice.personal_organization,
            values={"confirmation_mode": True},
            enforced=["confirmation_mode"],
        )
        settings = api.get(URL).json()

        assert settings["confirmation_mode"] is True
        assert post_settings(api, **settings) == settings
        assert api.post(URL, {"confirmation_mode": False}, format="json").status_code == 403

    def test_anonymous_caller_is_401(self, db, client):
        assert client.get(URL).status_code == 401
        assert client.post(URL, {}, content_type="application/json").status_code == 401


def test_reset_settings_is_410(db, client):
    response = client.post("/api/reset-settings")

    assert response.status_code == 410
    assert response.json()["error"]


def test_model_list_is_sorted_and_includes_the_demo_and_the_chosen_model(configured):
    post_settings(configured, llm_model="mistral/new-one", llm_api_key="sk-2", llm_base_url="")

    models = configured.get("/api/options/models").json()

    assert models == sorted(models)
    assert {"demo", "openai/gpt-5.1", "mistral/new-one"} <= set(models)
    assert configured.get("/api/v1/options/models").json() == {"items": models}


class TestOddValues:
    """Values that old clients send and that must not change a setting."""

    def test_undecided_analytics_consent_is_not_stored(self, api):
        settings = post_settings(api, user_consents_to_analytics=True)
        assert settings["user_consents_to_analytics"] is True

        settings = post_settings(api, user_consents_to_analytics=None, language="de")

        assert (settings["user_consents_to_analytics"], settings["language"]) == (True, "de")

    @pytest.mark.parametrize("mask", [MASK, "****", ""])
    def test_masked_or_empty_search_key_keeps_the_stored_key(self, configured, mask):
        assert post_settings(configured, search_api_key=mask)["search_api_key_set"] is True
        assert UserSettings.objects.get().secrets["search_api_key"] == "tvly-Sec-1"

    def test_empty_mcp_config_removes_the_servers(self, configured):
        assert UserSettings.objects.get().secrets["mcp_config"] == MCP

        settings = post_settings(configured, mcp_config=DEFAULTS["mcp_config"])

        assert settings["mcp_config"] == DEFAULTS["mcp_config"]
        assert "mcp_config" not in UserSettings.objects.get().secrets

    @pytest.mark.parametrize("body", [[], "x", 7], ids=["list", "text", "number"])
    def test_body_that_is_no_object_is_400_and_changes_nothing(self, api, body):
        response = api.post(URL, body, format="json")

        assert response.status_code == 400
        assert response.json()["error"]
        assert api.get(URL).json() == DEFAULTS

    def test_key_without_the_model_scope_changes_other_settings_only(self, alice):
        client = key_client(alice, scopes=["settings.view", "settings.edit", "model_access.view"])

        assert post_settings(client, language="de", llm_model="demo")["language"] == "de"
        refused = client.post(URL, {"llm_model": "openai/gpt-5"}, format="json")
        assert (refused.status_code, refused.json()["permission"]) == (403, "model_access.edit")


class TestNull:
    """A null never changes where texts and keys go, and never stops the agent from asking."""

    @pytest.fixture
    def gateway(self, api, alice):
        """A keyless gateway with a model whose name looks like a vendor's."""
        services.save_model_access(
            organization=alice.personal_organization, user=alice,
            base_url="http://gateway.example.com/v1", model="anthropic/claude-sonnet-4-5",
        )  # fmt: skip
        return api

    @pytest.mark.parametrize(
        "body",
        [
            {"llm_base_url": None},
            {"llm_model": None, "llm_base_url": None, "llm_api_key": None},
            {"llm_model": None},
            {"llm_api_key": None},
            {"llm_model": "anthropic/claude-sonnet-4-5", "llm_base_url": None},
        ],
    )
    def test_null_keeps_the_model_server(self, gateway, body):
        assert gateway.post(URL, {"language": "fr"} | body, format="json").status_code == 200

        access = ModelAccess.objects.get()
        assert (access.base_url, access.model) == (
            "http://gateway.example.com/v1",
            "anthropic/claude-sonnet-4-5",
        )
        assert gateway.get(URL).json()["language"] == "fr"

    @pytest.mark.parametrize("model", ["openai/gpt-5.1", "anthropic/other"])
    def test_new_model_with_a_null_server_stays_at_the_server(self, gateway, model):
        gateway.post(URL, {"llm_model": model, "llm_base_url": None}, format="json")

        assert ModelAccess.objects.get().base_url == "http://gateway.example.com/v1"

    @pytest.mark.parametrize(
        "config",
        [
            None,
            dict.fromkeys(MCP),
            MCP | {"shttp_servers": None},
            {"stdio_servers": None, "shttp_servers": MCP["shttp_servers"]},
            MCP | {"shttp_servers": [MCP["shttp_servers"][0] | {"api_key": None}]},
            MCP | {"stdio_servers": [MCP["stdio_servers"][0] | {"env": None}]},
            MCP | {"stdio_servers": [MCP["stdio_servers"][0] | {"args": None}]},
            MCP | {"stdio_servers": [MCP["stdio_servers"][0] | {"env": {"K": None}}]},
        ],
    )
    @pytest.mark.parametrize("route", ["compat", "canonical"])
    def test_null_keeps_the_mcp_servers(self, configured, alice, config, route):
        if route == "compat":
            response = configured.post(URL, {"mcp_config": config}, format="json")
        else:
            # At the top, null removes the caller's own value in this API, as its documentation says.
            body = {"values": {} if config is None else {"mcp_config": config}}
            response = configured.patch("/api/v1/settings", body, format="json")

        assert response.status_code == 200, response.content
        effective = user_settings.effective_settings(
            user_id=alice.pk, organization_id=alice.personal_organization.pk
        )
        assert effective.values["mcp_config"] == MCP | {"sse_servers": []}

    @pytest.mark.parametrize(
        "config",
        [
            {"shttp_servers": [{"url": None}]},
            {"stdio_servers": [{"name": "fetch", "command": None}]},
            {"stdio_servers": [{"name": None, "command": "uvx"}]},
            {"shttp_servers": [None]},
        ],
    )
    def test_null_in_place_of_an_address_is_refused(self, configured, config):
        assert configured.post(URL, {"mcp_config": config}, format="json").status_code == 400

    def test_null_keeps_the_questions_of_the_agent(self, api):
        post_settings(api, confirmation_mode=True)

        assert post_settings(api, confirmation_mode=None)["confirmation_mode"] is True

    def test_null_keeps_every_secret(self, configured):
        before = configured.get(URL).json()

        after = post_settings(
            configured, search_api_key=None, llm_api_key=None, mcp_config=None, llm_base_url=None
        )

        assert after == before

    @pytest.mark.parametrize("host", [{"host": None}, {}])
    @pytest.mark.parametrize("route", ["compat", "canonical"])
    def test_new_token_with_a_null_host_goes_to_the_stored_host(
        self, configured, alice, host, route, monkeypatch
    ):
        asked = []

        def record_host(provider, *, host, token):
            asked.append(host)
            raise TokenRefused

        monkeypatch.setattr("integrations.registry.get_provider", record_host)
        entry = {"token": "ghp_New1"} | host
        if route == "compat":
            body = {"provider_tokens": {"github": entry}}
            configured.post("/api/add-git-providers", body, format="json")
        else:
            configured.put("/api/v1/provider-tokens/github", entry, format="json")

        assert asked == ["github.example.com"]
