"""Options of the engine's clients: each one is applied or refused by name, and safety requests are never dropped."""

from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from accounts import services as accounts
from accounts.services import user_settings
from conversations import services
from conversations.models import Conversation
from tests.conversations.conftest import list_queued_jobs

pytestmark = pytest.mark.django_db
URL = "/api/conversations"
AGENT = {
    "kind": "Agent",
    "llm": {"model": "openai/x", "api_key": "x", "usage_id": "agent"},
    "tools": [{"name": "terminal", "params": {}}],
    "mcp_config": {},
    "filter_tools_regex": None,
    "include_default_tools": ["FinishTool", "ThinkTool"],
    "agent_context": None,
    "system_prompt": None,
    "system_prompt_filename": "system_prompt.j2",
    "security_policy_filename": "security_policy.j2",
    "system_prompt_kwargs": {"llm_security_analyzer": True},
    "condenser": None,
    "critic": None,
    "tool_concurrency_limit": 1,
    "persona": None,
}
"""``Agent.model_dump()`` of openhands-sdk 1.58.2."""
SDK_BODY = {
    "agent": AGENT,
    "initial_message": None,
    "max_iterations": 500,
    "stuck_detection": True,
    "workspace": {"working_dir": "/workspace/project", "kind": "LocalWorkspace"},
    "tool_module_qualnames": {"terminal": "openhands.tools.terminal.definition"},
    "agent_definitions": [],
    "plugins": None,
    "hook_config": None,
    "client_tools": [],
    "tags": {},
    "observability_metadata": {},
    "observability_tags": [],
    "observability_span_name": "conversation",
    "observability_parent_span_context": None,
    "user_id": None,
}
"""The body that ``RemoteConversation`` of openhands-sdk 1.58.2 sends when a program sets no options."""
ALWAYS = {"kind": "AlwaysConfirm"}


@pytest.fixture
def sdk(alice):
    """A client with Alice's API key in the engine's header, like the SDK."""
    _, key = accounts.issue_api_key(user=alice, name="sdk")
    return APIClient(headers={"X-Session-API-Key": key})


def create(sdk, **fields):
    return sdk.post(URL, SDK_BODY | fields, format="json")


class TestConfirmationPolicy:
    @pytest.mark.parametrize(
        ("policy", "stored"),
        [
            (ALWAYS, "always"),
            ({"kind": "NeverConfirm"}, "never"),
            ({"kind": "ConfirmRisky", "threshold": "HIGH", "confirm_unknown": True}, "risky"),
            ({"kind": "ConfirmRisky"}, "risky"),
            # The next stricter policy that this server has: it asks for everything that the client named.
            ({"kind": "ConfirmRisky", "threshold": "HIGH", "confirm_unknown": False}, "risky"),
            ({"kind": "ConfirmRisky", "threshold": "MEDIUM"}, "always"),
            ({"kind": "ConfirmRisky", "threshold": "LOW", "confirm_unknown": False}, "always"),
        ],
    )
    def test_policy_of_the_sdk_is_applied(self, sdk, running, policy, stored):
        response = sdk.post(
            f"{URL}/{running.pk}/confirmation_policy", {"policy": policy}, format="json"
        )

        running.refresh_from_db()
        assert (response.status_code, response.json()) == (200, {"success": True})
        assert running.confirmation_policy == stored
        if stored != "never":
            assert list_queued_jobs("carry_confirmation")

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"policy": None},
            {"policy": "AlwaysConfirm"},
            {"policy": {"kind": "Sometimes"}},
            {"policy": {}},
            {"policy": {"kind": "ConfirmRisky", "threshold": "UNKNOWN"}},
            {"policy": {"kind": "ConfirmRisky", "threshold": "SEVERE"}},
            {"policy": {"kind": "ConfirmRisky", "confirm_unknown": "perhaps"}},
            {"policy": {"kind": "AlwaysConfirm", "except": ["terminal"]}},
            {"policy": ALWAYS, "until": "tomorrow"},
            [ALWAYS],
        ],
    )
    def test_unknown_policy_is_refused_and_changes_nothing(self, sdk, running, body):
        services.set_confirmation(conversation_id=running.pk, confirmation_policy="risky")

        response = sdk.post(f"{URL}/{running.pk}/confirmation_policy", body, format="json")

        running.refresh_from_db()
        assert response.status_code == 422, response.content
        assert response.json()["error"]
        assert running.confirmation_policy == "risky"

    def test_conversation_key_sets_the_policy(self, running, alice):
        key = services.conversation_key(conversation=running, user=alice)
        client = APIClient(headers={"X-Session-API-Key": key})

        response = client.post(
            f"{URL}/{running.pk}/confirmation_policy", {"policy": ALWAYS}, format="json"
        )

        running.refresh_from_db()
        assert (response.status_code, running.confirmation_policy) == (200, "always")

    @pytest.mark.parametrize("route", ["confirmation_policy", "security_analyzer"])
    def test_conversation_of_another_user_is_404(self, sdk, charlie, route):
        foreign = services.create_conversation(user=charlie)

        response = sdk.post(f"{URL}/{foreign.pk}/{route}", {"policy": ALWAYS}, format="json")

        assert response.status_code == 404


class TestSecurityAnalyzer:
    @pytest.mark.parametrize(
        ("analyzer", "stored"),
        [
            ({"kind": "LLMSecurityAnalyzer"}, "llm"),
            ({"kind": "PatternSecurityAnalyzer"}, "pattern"),
            (None, "none"),
        ],
    )
    def test_analyzer_of_the_sdk_is_applied(self, sdk, running, analyzer, stored):
        body = {"security_analyzer": analyzer}

        response = sdk.post(f"{URL}/{running.pk}/security_analyzer", body, format="json")

        running.refresh_from_db()
        assert (response.status_code, running.security_analyzer) == (200, stored)
        assert sdk.get(f"{URL}/{running.pk}").json()["security_analyzer"] == analyzer

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"security_analyzer": {"kind": "EnsembleSecurityAnalyzer", "analyzers": []}},
            {"security_analyzer": {"kind": "PatternSecurityAnalyzer", "patterns": ["rm"]}},
            {"security_analyzer": "llm"},
            {"analyzer": {"kind": "LLMSecurityAnalyzer"}},
        ],
    )
    def test_unknown_analyzer_is_refused_by_name(self, sdk, running, body):
        response = sdk.post(f"{URL}/{running.pk}/security_analyzer", body, format="json")

        running.refresh_from_db()
        assert response.status_code == 422
        assert "analyzer" in response.json()["error"]
        assert running.security_analyzer in ("", "llm")


class TestUnservedRoutes:
    @pytest.mark.parametrize(
        ("method", "route"),
        [
            ("post", "secrets"),
            ("post", "ask_agent"),
            ("post", "condense"),
            ("post", "fork"),
            ("post", "navigate"),
            ("post", "load_plugin"),
            ("post", "switch_llm"),
            ("post", "switch_profile"),
            ("post", "switch_acp_model"),
            ("post", "children"),
            ("post", "goal"),
            ("post", "goal/stop"),
            ("post", "goal/resume"),
            ("get", "agent_final_response"),
            ("get", "runtime"),
            ("post", "runtime/reprovision"),
        ],
    )
    def test_route_of_the_engine_that_is_not_served_says_so(self, sdk, running, method, route):
        response = getattr(sdk, method)(f"{URL}/{running.pk}/{route}", {}, format="json")

        assert (response.status_code, response.json()["code"]) == (501, "not-served")
        assert route in response.json()["error"]

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("post", "/api/bash/start_bash_command"),
            ("post", "/api/bash/execute_bash_command"),
            ("get", "/api/bash/bash_events/search"),
        ],
    )
    def test_command_outside_of_the_agent_says_that_it_did_not_run(self, sdk, method, path):
        response = getattr(sdk, method)(path, {"command": "true"}, format="json")

        assert (response.status_code, response.json()["code"]) == (501, "not-served")

    def test_unserved_route_of_a_foreign_conversation_is_404(self, sdk, charlie):
        foreign = services.create_conversation(user=charlie)

        assert sdk.post(f"{URL}/{foreign.pk}/condense").status_code == 404


class TestCreate:
    def test_default_body_of_the_sdk_creates_a_conversation(self, sdk):
        response = create(sdk)

        assert response.status_code == 201, response.content
        assert response.json()["max_iterations"] == 500
        assert response.json()["tags"] == {}

    def test_options_are_kept_in_the_record(self, sdk):
        parent = create(sdk).json()["id"]
        tags = {"team": "a" * 256, "run7": "über"}

        response = create(
            sdk,
            max_iterations=50,
            tags=tags,
            confirmation_policy=ALWAYS,
            security_analyzer={"kind": "PatternSecurityAnalyzer"},
            parent_conversation_id=parent,
        )

        record = sdk.get(f"{URL}/{response.json()['id']}").json()
        assert response.status_code == 201, response.content
        assert (record["max_iterations"], record["tags"]) == (50, tags)
        assert record["confirmation_policy"] == ALWAYS
        assert record["security_analyzer"] == {"kind": "PatternSecurityAnalyzer"}
        assert [tool["name"] for tool in record["agent"]["tools"]] == ["terminal"]
        assert str(Conversation.objects.get(pk=record["id"]).parent_id) == parent

    def test_options_reach_the_engine(self, sdk, sandboxes, engine):
        pk = create(sdk, max_iterations=50, tags={"team": "a"}).json()["id"]

        services.start_conversation(conversation_id=pk)

        [body] = [body for _, path, body in engine.calls if path == URL]
        assert body["max_iterations"] == 50, body
        assert body["tags"] == {"team": "a"}
        assert body["agent"]["tools"] == [{"name": "terminal"}]

    def test_iterations_of_the_settings_are_shown(self, sdk, alice):
        user_settings.change_settings(
            user=alice, organization=alice.personal_organization, values={"max_iterations": 70}
        )

        assert create(sdk, max_iterations=None).json()["max_iterations"] == 70

    def test_user_who_wants_to_be_asked_is_asked_if_the_program_says_nothing(self, sdk, alice):
        user_settings.change_settings(
            user=alice, organization=alice.personal_organization, values={"confirmation_mode": True}
        )

        pk = create(sdk).json()["id"]

        assert Conversation.objects.get(pk=pk).confirmation_policy == "risky"

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"confirmation_policy": {"kind": "Sometimes"}}, "confirmation_policy"),
            ({"confirmation_policy": "AlwaysConfirm"}, "confirmation_policy"),
            ({"security_analyzer": {"kind": "GraySwanAnalyzer"}}, "security_analyzer"),
            ({"max_iterations": 0}, "max_iterations"),
            ({"max_iterations": "many"}, "max_iterations"),
            ({"max_iterations": 10_001}, "max_iterations"),
            ({"max_iterations": True}, "max_iterations"),
            ({"tags": {"Team": "a"}}, "tags"),
            ({"tags": {"team": "a" * 257}}, "tags"),
            ({"tags": {"team": 5}}, "tags"),
            ({"tags": {"team": "\0"}}, "tags"),
            ({"tags": ["a"]}, "tags"),
            ({"stuck_detection": False}, "stuck_detection"),
            ({"stuck_detection_thresholds": {"a": 1}}, "stuck_detection_thresholds"),
            ({"workspace": {"working_dir": "/home/me/project"}}, "working_dir"),
            ({"workspace": {"working_dir": "/workspace/project", "host": "h"}}, "workspace"),
            ({"worktree": True}, "worktree"),
            ({"secrets": {"A": {"kind": "StaticSecret", "value": "v"}}}, "secrets"),
            ({"secrets_encrypted": True}, "secrets_encrypted"),
            ({"plugins": [{"source": "x"}]}, "plugins"),
            ({"hook_config": {"pre_tool_use": [{}]}}, "hook_config"),
            ({"client_tools": [{"name": "x"}]}, "client_tools"),
            ({"agent_definitions": [{"name": "x"}]}, "agent_definitions"),
            ({"agent_launch_additions": {"skills": [{}]}}, "agent_launch_additions"),
            ({"agent_profile_id": str(uuid4())}, "agent_profile_id"),
            ({"conversation_runtime": "docker"}, "conversation_runtime"),
            ({"container": {"memory": "1g"}}, "container"),
            ({"user_id": "u1"}, "user_id"),
            ({"observability_metadata": {"a": 1}}, "observability_metadata"),
            ({"observability_tags": ["a"]}, "observability_tags"),
            ({"observability_span_name": "mine"}, "observability_span_name"),
            ({"title_llm_profile": "fast"}, "title_llm_profile"),
            ({"prompt": "Name it"}, "prompt"),
            ({"max_budget_per_run": 2.5}, "max_budget_per_run"),
            ({"agent": AGENT | {"mcp_config": {"mcpServers": {"a": {}}}}}, "mcp_config"),
            ({"agent": AGENT | {"agent_context": {"skills": [{"name": "a"}]}}}, "agent_context"),
            ({"agent": AGENT | {"tools": [{"name": "browser_tool_set"}]}}, "browser_tool_set"),
            ({"agent": AGENT | {"tools": [{"name": "terminal", "params": {"a": 1}}]}}, "tools"),
            ({"agent": AGENT | {"system_prompt": "Be brief."}}, "system_prompt"),
            ({"agent": AGENT | {"kind": "ACPAgent"}}, "kind"),
            ({"agent": "CodeActAgent"}, "agent"),
            ({"agent_settings": {"verification": {"confirmation_mode": True}}}, "verification"),
            ({"initial_message": {"role": "system", "content": []}}, "initial_message"),
        ],
    )
    def test_option_that_cannot_be_kept_is_refused_by_name(self, sdk, fields, name):
        response = create(sdk, **fields)

        assert response.status_code == 422, response.content
        assert name in response.json()["error"]
        assert not Conversation.objects.exists()

    def test_more_iterations_than_the_organization_enforces_are_refused(self, sdk, alice):
        user_settings.change_organization_settings(
            organization=alice.personal_organization,
            values={"max_iterations": 100},
            enforced=["max_iterations"],
        )

        assert create(sdk, max_iterations=101).status_code == 403
        assert create(sdk, max_iterations=40).json()["max_iterations"] == 40
        assert create(sdk, max_iterations=None).json()["max_iterations"] == 100


class TestChange:
    def test_sdk_changes_the_tags(self, sdk, conversation):
        response = sdk.patch(
            f"{URL}/{conversation.pk}", {"title": "New", "tags": {"a": "b"}}, format="json"
        )

        record = sdk.get(f"{URL}/{conversation.pk}").json()
        assert response.status_code == 200, response.content
        assert (record["title"], record["tags"]) == ("New", {"a": "b"})

    @pytest.mark.parametrize("tags", [{"A": "b"}, ["a"], "a", {"a": None}])
    def test_malformed_tags_are_refused(self, sdk, conversation, tags):
        response = sdk.patch(f"{URL}/{conversation.pk}", {"tags": tags}, format="json")

        assert response.status_code == 422
        assert "tags" in response.json()["error"]


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("events", {"role": "user", "content": [{"type": "text", "text": "x"}], "confirm": True}),
        ("events", {"role": "user", "content": [], "extended_content": [{"type": "text"}]}),
        ("events/respond_to_confirmation", {"accept": True, "accept_risk": "low"}),
    ],
)
def test_unknown_field_of_a_message_or_an_answer_is_refused_by_name(sdk, route, body):
    pk = sdk.post(URL, SDK_BODY, format="json").json()["id"]

    response = sdk.post(f"{URL}/{pk}/{route}", body, format="json")

    assert response.status_code == 422, response.content
    assert list(body)[-1] in response.json()["detail"]


def test_sender_has_no_effect_as_in_the_engine(sdk):
    pk = sdk.post(URL, SDK_BODY, format="json").json()["id"]
    body = {"role": "user", "content": [{"type": "text", "text": "x"}], "run": False}

    response = sdk.post(f"{URL}/{pk}/events", body | {"sender": "bot"}, format="json")

    assert response.status_code == 200, response.content
