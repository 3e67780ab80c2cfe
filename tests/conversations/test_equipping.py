"""The settings, MCP servers and secrets that the engine gets; secrets are sent by reference only."""

import pytest
from django.test import Client

from accounts.models import AuditEntry, CustomSecretUse
from accounts.services import custom_secrets, provider_tokens, user_settings
from billing import services as billing
from conversations import repositories, services
from conversations.models import Sandbox
from conversations.sandboxes.provider import State
from conversations.services import redaction

MCP = {
    "sse_servers": ["https://one.example.com/sse"],
    "shttp_servers": [{"url": "https://one.example.com/mcp", "api_key": "mcp-Sec-1", "timeout": 9}],
    "stdio_servers": [{"name": "fetch", "command": "uvx", "args": ["x"], "env": {"K": "env-Sec"}}],
}


def change_settings(user, **values):
    user_settings.change_settings(user=user, organization=user.personal_organization, values=values)


def start_conversation(user, engine, **fields):
    """Start a new conversation; return it and the start request that the engine got."""
    conversation = services.create_conversation(user=user, title="x", **fields)
    services.start_conversation(conversation_id=conversation.pk)
    bodies = [b for m, s, b in engine.calls if (m, s) == ("POST", "/api/conversations")]
    return conversation, bodies[-1]


def create_secret(user, name="TOKEN", value="Sec-value-1", **more):
    return custom_secrets.create_secret(
        organization=user.personal_organization, by=user, name=name, value=value, **more
    )


class TestStartRequest:
    def test_user_without_settings_gets_the_defaults(self, alice, sandboxes, engine):
        _, body = start_conversation(alice, engine)

        assert body["max_iterations"] == 500
        assert body["agent"]["condenser"]["max_size"] == 80
        assert body["agent"]["mcp_config"] == {}
        assert body["security_analyzer"] == {"kind": "LLMSecurityAnalyzer"}
        assert body["confirmation_policy"] == {"kind": "NeverConfirm"}
        assert body["secrets"] == {}

    def test_addresses_of_this_server_come_from_the_provider(
        self, alice, sandboxes, engine, monkeypatch
    ):
        monkeypatch.setattr(sandboxes, "gateway_url", lambda: "http://gateway.internal")
        create_secret(alice)

        _, body = start_conversation(alice, engine)

        assert body["agent"]["llm"]["base_url"] == "http://gateway.internal/api/llm/v1"
        assert (
            body["secrets"]["TOKEN"]["url"] == "http://gateway.internal/api/sandbox/secrets/TOKEN"
        )
        assert sandboxes.specs[-1].gateway_url == "http://gateway.internal"

    def test_settings_of_the_user_are_in_the_request(self, alice, sandboxes, engine):
        change_settings(
            alice, max_iterations=7, condenser_max_size=33, mcp_config=MCP, search_api_key="tvly-Sec-1",
            confirmation_mode=True, security_analyzer="pattern",
        )  # fmt: skip

        _, body = start_conversation(alice, engine)

        assert body["max_iterations"] == 7
        assert body["agent"]["condenser"]["max_size"] == 33
        assert body["security_analyzer"] == {"kind": "PatternSecurityAnalyzer"}
        assert body["confirmation_policy"]["kind"] == "ConfirmRisky"
        assert body["agent"]["mcp_config"] == {
            "fetch": {"command": "uvx", "args": ["x"], "env": {"K": "env-Sec"}},
            "one_example_com": {"url": "https://one.example.com/sse", "transport": "sse"},
            "one_example_com_2": {
                "url": "https://one.example.com/mcp",
                "transport": "http",
                "headers": {"Authorization": "Bearer mcp-Sec-1"},
                "timeout": 9000,
            },
            "mcp_tavily_com": {
                "url": "https://mcp.tavily.com/mcp/",
                "transport": "http",
                "headers": {"Authorization": "Bearer tvly-Sec-1"},
            },
        }

    def test_disabled_condenser_is_null(self, alice, sandboxes, engine):
        change_settings(alice, enable_default_condenser=False)

        assert start_conversation(alice, engine)[1]["agent"]["condenser"] is None

    def test_git_author_of_the_user_is_set_and_quoted(self, alice, sandboxes, engine):
        change_settings(alice, git_user_name="O'Hara", git_user_email="oh@example.com")

        start_conversation(alice, engine)

        [command] = [b["command"] for _, s, b in engine.calls if s.endswith("execute_bash_command")]
        assert "user.name 'O'\"'\"'Hara'" in command
        assert "user.email oh@example.com" in command


class TestConfirmation:
    @pytest.mark.parametrize(
        ("mode", "analyzer", "requested", "policy"),
        [
            (False, "llm", None, "never"),
            (True, "llm", None, "risky"),
            (True, "none", None, "always"),
            (True, "llm", "never", "never"),
            (False, "llm", "always", "always"),
        ],
    )
    def test_requested_policy_overrides_the_settings(
        self, alice, mode, analyzer, requested, policy
    ):
        change_settings(alice, confirmation_mode=mode, security_analyzer=analyzer)

        conversation = services.create_conversation(
            user=alice, title="x", confirmation_policy=requested
        )

        assert conversation.confirmation_policy == policy
        assert conversation.security_analyzer == analyzer

    def test_enforced_settings_cannot_be_weakened(self, alice, api):
        user_settings.change_organization_settings(
            organization=alice.personal_organization,
            values={"confirmation_mode": True, "security_analyzer": "none"},
            enforced=["confirmation_mode", "security_analyzer"],
        )

        record = api.post(
            "/api/v1/conversations", {"message": "x", "confirmation_policy": "never"}, format="json"
        ).json()

        assert record["confirmation_policy"] == "always"
        path = f"/api/v1/conversations/{record['id']}"
        for change in ({"confirmation_policy": "never"}, {"security_analyzer": "llm"}):
            refused = api.patch(path, change, format="json")
            assert (refused.status_code, refused.json()["code"]) == (403, "enforced-setting")


def fetch_secret(source):
    """Return the response to the request that the engine sends for a secret."""
    path = source["url"].split("/", 3)[3]
    return Client().get(f"/{path}", headers=source["headers"])


class TestSecrets:
    def test_secrets_are_sent_by_reference_and_their_use_is_recorded(
        self, alice, sandboxes, engine
    ):
        create_secret(alice, description="of the build")
        create_secret(alice, "SHARED", "Sec-shared", is_shared=True)

        conversation, body = start_conversation(alice, engine)

        assert set(body["secrets"]) == {"TOKEN", "SHARED"}
        assert "Sec-" not in str(body)
        source = body["secrets"]["TOKEN"]
        assert (source["kind"], source["description"]) == ("LookupSecret", "of the build")
        response = fetch_secret(source)
        assert (response.status_code, response.content) == (200, b"Sec-value-1")
        assert "no-store" in response.headers["Cache-Control"]
        use = CustomSecretUse.objects.get()
        assert (use.secret.name, use.conversation_id) == ("TOKEN", conversation.pk)

    def test_reference_returns_a_new_value_and_404_after_deletion(self, alice, sandboxes, engine):
        secret = create_secret(alice)
        _, body = start_conversation(alice, engine)
        source = body["secrets"]["TOKEN"]

        custom_secrets.change_secret(secret=secret, value="Sec-value-2")
        assert fetch_secret(source).content == b"Sec-value-2"
        custom_secrets.delete_secret(secret=secret)
        assert fetch_secret(source).status_code == 404

    def test_reference_is_refused_for_a_stopped_sandbox_or_a_revoked_token(
        self, alice, sandboxes, engine
    ):
        create_secret(alice)
        conversation, body = start_conversation(alice, engine)
        source = body["secrets"]["TOKEN"]

        Sandbox.objects.update(desired=Sandbox.Desired.STOPPED)
        assert fetch_secret(source).status_code == 404
        Sandbox.objects.update(desired=Sandbox.Desired.RUNNING)
        assert fetch_secret(source).status_code == 200
        billing.revoke_gateway_tokens(conversation_id=conversation.pk)
        assert fetch_secret(source).status_code == 401

    def test_reference_is_refused_without_a_token_or_with_another_conversations_token(
        self, alice, charlie, sandboxes, engine
    ):
        create_secret(alice)
        _, body = start_conversation(alice, engine)
        create_secret(charlie, "OTHER")
        other, _ = start_conversation(charlie, engine)
        token = billing.issue_gateway_token(
            organization_id=other.organization_id, user_id=charlie.pk, conversation_id=other.pk
        )

        for headers in ({}, {"Authorization": "Bearer x"}):
            assert fetch_secret(body["secrets"]["TOKEN"] | {"headers": headers}).status_code == 401
        stolen = body["secrets"]["TOKEN"] | {"headers": {"Authorization": f"Bearer {token}"}}
        assert fetch_secret(stolen).status_code == 404

    def test_engine_that_starts_again_gets_the_current_secrets(self, alice, sandboxes, engine):
        conversation, _ = start_conversation(alice, engine)
        create_secret(alice)
        sandboxes.state = State.STOPPED
        services.resume(conversation_id=conversation.pk)
        Sandbox.objects.update(observed=Sandbox.Observed.STOPPED)
        services.resume(conversation_id=conversation.pk)

        services.start_conversation(conversation_id=conversation.pk)

        [body] = [b for m, s, b in engine.calls if (m, s) == ("POST", "/secrets")]
        assert fetch_secret(body["secrets"]["TOKEN"]).content == b"Sec-value-1"


class TestGitHostToken:
    """The creator's token for the repository's Git host, as a secret of the sandbox."""

    repository = {"provider": "github", "full_name": "octo/private"}  # noqa: RUF012
    plain = "ghp_Sec-push-0123"

    @pytest.fixture(autouse=True)
    def _clone_publicly(self, engine, monkeypatch):
        """Clone without a token, and let every command in the sandbox succeed.

        ``tests/flows/test_repository.py`` clones and pushes for real.
        """
        monkeypatch.setattr(repositories, "_resolver", repositories.public_source)
        success = {"exit_code": 0, "stdout": "", "stderr": ""}
        engine.answers["POST /api/bash/execute_bash_command"] = (200, success)

    def connect_git_host(self, user, token=plain):
        provider_tokens.set_provider_token(
            user=user, organization=user.personal_organization, provider="github", token=token
        )

    def test_token_is_sent_by_reference_and_its_use_is_audited(self, alice, sandboxes, engine):
        self.connect_git_host(alice)

        conversation, body = start_conversation(alice, engine, repository=self.repository)

        assert self.plain not in str(engine.calls)
        source = body["secrets"].pop("GITHUB_TOKEN")
        assert body["secrets"] == {}
        assert 'echo "password=$GITHUB_TOKEN"; }; f\' push' in source["description"]
        assert fetch_secret(source).content == self.plain.encode()
        entry = AuditEntry.objects.get(action="provider_token.used")
        assert entry.after["conversation"] == str(conversation.pk)
        assert (entry.chain, entry.actor_name) == (conversation.organization_id, "sandbox")
        assert self.plain not in str(list(AuditEntry.objects.values("before", "after")))

    def test_custom_secret_of_the_same_name_takes_precedence(self, alice, sandboxes, engine):
        self.connect_git_host(alice)
        secret = create_secret(alice, "GITHUB_TOKEN", "Sec-own-token", description="mine")

        _, body = start_conversation(alice, engine, repository=self.repository)
        source = body["secrets"]["GITHUB_TOKEN"]

        assert source["description"] == "mine"
        assert fetch_secret(source).content == b"Sec-own-token"
        assert not AuditEntry.objects.filter(action="provider_token.used").exists()
        custom_secrets.delete_secret(secret=secret)
        assert fetch_secret(source).content == self.plain.encode()

    def test_token_is_available_only_for_its_host_and_while_connected(
        self, alice, sandboxes, engine
    ):
        self.connect_git_host(alice)
        _, body_without_repository = start_conversation(alice, engine)
        gitlab_repository = {"provider": "gitlab", "full_name": "octo/private"}
        other, gitlab_body = start_conversation(alice, engine, repository=gitlab_repository)
        token = billing.issue_gateway_token(
            organization_id=other.organization_id, user_id=alice.pk, conversation_id=other.pk
        )
        _, body = start_conversation(alice, engine, repository=self.repository)
        source = body["secrets"]["GITHUB_TOKEN"]

        assert (body_without_repository["secrets"], gitlab_body["secrets"]) == ({}, {})
        assert (
            fetch_secret(source | {"headers": {"Authorization": f"Bearer {token}"}}).status_code
            == 404
        )
        assert (
            fetch_secret(source | {"url": source["url"].replace("HUB", "LAB")}).status_code == 404
        )
        provider_tokens.remove_provider_token(
            user=alice, organization=alice.personal_organization, provider="github"
        )
        assert fetch_secret(source).status_code == 404

    def test_token_is_available_only_to_the_creator(self, alice, bob, sandboxes, engine):
        self.connect_git_host(alice)
        conversation, body = start_conversation(alice, engine, repository=self.repository)
        _, own = start_conversation(bob, engine, repository=self.repository)
        assert own["secrets"] == {}
        provider_tokens.set_provider_token(
            user=bob,
            organization=alice.personal_organization,
            provider="github",
            token="ghp_Sec-bob-0123",
        )
        token = billing.issue_gateway_token(
            organization_id=conversation.organization_id,
            user_id=bob.pk,
            conversation_id=conversation.pk,
        )
        stolen = body["secrets"]["GITHUB_TOKEN"] | {"headers": {"Authorization": f"Bearer {token}"}}
        assert fetch_secret(stolen).status_code == 404

    def test_token_is_redacted_from_events(self, alice, sandboxes, engine):
        self.connect_git_host(alice)
        conversation, _ = start_conversation(alice, engine, repository=self.repository)

        redaction.clear_cache()
        redact = redaction.build_payload_redactor(conversation.pk)

        assert redact is not None
        assert redact(f'{{"text": "is {self.plain}."}}') == '{"text": "is <secret_hidden>."}'
