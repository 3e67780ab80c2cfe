"""Settings, MCP servers and secrets reach the engine, and secrets only by reference."""

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


def choose(user, **values):
    user_settings.change_settings(user=user, organization=user.personal_organization, values=values)


def started(user, engine, **fields):
    """The engine's start request for a new conversation."""
    conversation = services.create_conversation(user=user, title="x", **fields)
    services.start_conversation(conversation_id=conversation.pk)
    bodies = [b for m, s, b in engine.calls if (m, s) == ("POST", "/api/conversations")]
    return conversation, bodies[-1]


def keep(user, name="TOKEN", value="Sec-value-1", **more):
    return custom_secrets.create_secret(
        organization=user.personal_organization, by=user, name=name, value=value, **more
    )


class TestStart:
    def test_without_settings(self, alice, sandboxes, engine):
        _, body = started(alice, engine)

        assert body["max_iterations"] == 500
        assert body["agent"]["condenser"]["max_size"] == 80
        assert body["agent"]["mcp_config"] == {}
        assert body["security_analyzer"] == {"kind": "LLMSecurityAnalyzer"}
        assert body["confirmation_policy"] == {"kind": "NeverConfirm"}
        assert body["secrets"] == {}

    def test_with_settings(self, alice, sandboxes, engine):
        choose(
            alice, max_iterations=7, condenser_max_size=33, mcp_config=MCP, search_api_key="tvly-Sec-1",
            confirmation_mode=True, security_analyzer="pattern",
        )  # fmt: skip

        _, body = started(alice, engine)

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

    def test_without_a_condenser(self, alice, sandboxes, engine):
        choose(alice, enable_default_condenser=False)

        assert started(alice, engine)[1]["agent"]["condenser"] is None

    def test_who_commits(self, alice, sandboxes, engine):
        choose(alice, git_user_name="O'Hara", git_user_email="oh@example.com")

        started(alice, engine)

        [command] = [b["command"] for _, s, b in engine.calls if s.endswith("execute_bash_command")]
        assert "user.name 'O'\"'\"'Hara'" in command
        assert "user.email oh@example.com" in command


class TestConfirmation:
    @pytest.mark.parametrize(
        ("mode", "analyzer", "asked", "policy"),
        [
            (False, "llm", None, "never"),
            (True, "llm", None, "risky"),
            (True, "none", None, "always"),
            (True, "llm", "never", "never"),
            (False, "llm", "always", "always"),
        ],
    )
    def test_settings_unless_something_is_asked_for(self, alice, mode, analyzer, asked, policy):
        choose(alice, confirmation_mode=mode, security_analyzer=analyzer)

        made = services.create_conversation(user=alice, title="x", confirmation_policy=asked)

        assert made.confirmation_policy == policy
        assert made.security_analyzer == analyzer

    def test_nobody_asks_less_than_is_enforced(self, alice, api):
        user_settings.change_organization_settings(
            organization=alice.personal_organization,
            values={"confirmation_mode": True, "security_analyzer": "none"},
            enforced=["confirmation_mode", "security_analyzer"],
        )

        made = api.post(
            "/api/v1/conversations", {"message": "x", "confirmation_policy": "never"}, format="json"
        ).json()

        assert made["confirmation_policy"] == "always"
        path = f"/api/v1/conversations/{made['id']}"
        for change in ({"confirmation_policy": "never"}, {"security_analyzer": "llm"}):
            refused = api.patch(path, change, format="json")
            assert (refused.status_code, refused.json()["code"]) == (403, "enforced-setting")


class TestSecrets:
    def ask(self, source):
        path = source["url"].split("/", 3)[3]
        return Client().get(f"/{path}", headers=source["headers"])

    def test_go_by_reference(self, alice, sandboxes, engine):
        keep(alice, description="of the build")
        keep(alice, "SHARED", "Sec-shared", is_shared=True)

        conversation, body = started(alice, engine)

        assert set(body["secrets"]) == {"TOKEN", "SHARED"}
        assert "Sec-" not in str(body)
        source = body["secrets"]["TOKEN"]
        assert (source["kind"], source["description"]) == ("LookupSecret", "of the build")
        answer = self.ask(source)
        assert (answer.status_code, answer.content) == (200, b"Sec-value-1")
        assert "no-store" in answer.headers["Cache-Control"]
        use = CustomSecretUse.objects.get()
        assert (use.secret.name, use.conversation_id) == ("TOKEN", conversation.pk)

    def test_a_new_value_counts_at_once_and_a_deleted_one_is_gone(self, alice, sandboxes, engine):
        secret = keep(alice)
        _, body = started(alice, engine)
        source = body["secrets"]["TOKEN"]

        custom_secrets.change_secret(secret=secret, value="Sec-value-2")
        assert self.ask(source).content == b"Sec-value-2"
        custom_secrets.delete_secret(secret=secret)
        assert self.ask(source).status_code == 404

    def test_not_for_a_conversation_that_is_gone_or_stopped(self, alice, sandboxes, engine):
        keep(alice)
        conversation, body = started(alice, engine)
        source = body["secrets"]["TOKEN"]

        Sandbox.objects.update(desired=Sandbox.Desired.STOPPED)
        assert self.ask(source).status_code == 404
        Sandbox.objects.update(desired=Sandbox.Desired.RUNNING)
        assert self.ask(source).status_code == 200
        billing.revoke_gateway_tokens(conversation_id=conversation.pk)
        assert self.ask(source).status_code == 401

    def test_not_without_a_token_or_for_anothers(self, alice, charlie, sandboxes, engine):
        keep(alice)
        _, body = started(alice, engine)
        keep(charlie, "OTHER")
        other, _ = started(charlie, engine)
        token = billing.issue_gateway_token(
            organization_id=other.organization_id, user_id=charlie.pk, conversation_id=other.pk
        )

        for headers in ({}, {"Authorization": "Bearer x"}):
            assert self.ask(body["secrets"]["TOKEN"] | {"headers": headers}).status_code == 401
        stolen = body["secrets"]["TOKEN"] | {"headers": {"Authorization": f"Bearer {token}"}}
        assert self.ask(stolen).status_code == 404

    def test_a_woken_engine_is_told_todays_secrets(self, alice, sandboxes, engine):
        conversation, _ = started(alice, engine)
        keep(alice)
        sandboxes.state = State.STOPPED
        services.resume(conversation_id=conversation.pk)
        Sandbox.objects.update(observed=Sandbox.Observed.STOPPED)
        services.resume(conversation_id=conversation.pk)

        services.start_conversation(conversation_id=conversation.pk)

        [told] = [b for m, s, b in engine.calls if (m, s) == ("POST", "/secrets")]
        assert self.ask(told["secrets"]["TOKEN"]).content == b"Sec-value-1"


class TestPushing:
    """The creator's token at the repository's Git host, as a secret of the sandbox."""

    ask = TestSecrets.ask
    repository = {"provider": "github", "full_name": "octo/private"}  # noqa: RUF012
    plain = "ghp_Sec-push-0123"

    @pytest.fixture(autouse=True)
    def cloned(self, engine, monkeypatch):
        """The engine clones, as anybody; ``tests/flows/test_repository.py`` clones and pushes in earnest."""
        monkeypatch.setattr(repositories, "_resolver", repositories.public_source)
        done = {"exit_code": 0, "stdout": "", "stderr": ""}
        engine.answers["POST /api/bash/execute_bash_command"] = (200, done)

    def connect(self, user, token=plain):
        provider_tokens.set_provider_token(
            user=user, organization=user.personal_organization, provider="github", token=token
        )

    def test_goes_by_reference_and_its_use_is_written_down(self, alice, sandboxes, engine):
        self.connect(alice)

        conversation, body = started(alice, engine, repository=self.repository)

        assert self.plain not in str(engine.calls)
        source = body["secrets"].pop("GITHUB_TOKEN")
        assert body["secrets"] == {}
        assert 'echo "password=$GITHUB_TOKEN"; }; f\' push' in source["description"]
        assert self.ask(source).content == self.plain.encode()
        entry = AuditEntry.objects.get(action="provider_token.used")
        assert entry.after["conversation"] == str(conversation.pk)
        assert (entry.chain, entry.actor_name) == (conversation.organization_id, "sandbox")
        assert self.plain not in str(list(AuditEntry.objects.values("before", "after")))

    def test_a_custom_secret_of_its_name_wins(self, alice, sandboxes, engine):
        self.connect(alice)
        secret = keep(alice, "GITHUB_TOKEN", "Sec-own-token", description="mine")

        _, body = started(alice, engine, repository=self.repository)
        source = body["secrets"]["GITHUB_TOKEN"]

        assert source["description"] == "mine"
        assert self.ask(source).content == b"Sec-own-token"
        assert not AuditEntry.objects.filter(action="provider_token.used").exists()
        custom_secrets.delete_secret(secret=secret)
        assert self.ask(source).content == self.plain.encode()

    def test_only_with_a_repository_of_that_host_and_while_connected(
        self, alice, sandboxes, engine
    ):
        self.connect(alice)
        _, without = started(alice, engine)
        elsewhere = {"provider": "gitlab", "full_name": "octo/private"}
        other, elsewhere_body = started(alice, engine, repository=elsewhere)
        token = billing.issue_gateway_token(
            organization_id=other.organization_id, user_id=alice.pk, conversation_id=other.pk
        )
        _, body = started(alice, engine, repository=self.repository)
        source = body["secrets"]["GITHUB_TOKEN"]

        assert (without["secrets"], elsewhere_body["secrets"]) == ({}, {})
        assert (
            self.ask(source | {"headers": {"Authorization": f"Bearer {token}"}}).status_code == 404
        )
        assert self.ask(source | {"url": source["url"].replace("HUB", "LAB")}).status_code == 404
        provider_tokens.remove_provider_token(
            user=alice, organization=alice.personal_organization, provider="github"
        )
        assert self.ask(source).status_code == 404

    def test_only_for_the_creator(self, alice, bob, sandboxes, engine):
        self.connect(alice)
        conversation, body = started(alice, engine, repository=self.repository)
        _, own = started(bob, engine, repository=self.repository)
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
        assert self.ask(stolen).status_code == 404

    def test_events_hide_it(self, alice, sandboxes, engine):
        self.connect(alice)
        conversation, _ = started(alice, engine, repository=self.repository)

        redaction.clear_cache()
        hide = redaction.build_payload_redactor(conversation.pk)

        assert hide is not None
        assert hide(f'{{"text": "is {self.plain}."}}') == '{"text": "is <secret_hidden>."}'
