"""Routes of the engine's API that this server does not serve.

They respond with 501 and a sentence, because a program may treat a 404 as an old server and go on without the function.
"""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from compat.engine.views import ID, TAGS, EngineView
from compat.v1.base import V1View
from lib.problems import Problem
from lib.routes import NOTHING, RouteFacts

CONVERSATION_ROUTES = {
    "secrets": "Store the secrets in the settings of this server; its agents receive them.",
    "ask_agent": "Send a message instead.",
    "condense": "The history is summarized by itself, as the settings say.",
    "fork": "Use POST /api/v1/conversations/{id}/fork.",
    "navigate": "Use POST /api/v1/conversations/{id}/fork with `through_seq`.",
    "load_plugin": "",
    "switch_llm": "Choose the model in the settings, then start a new conversation.",
    "switch_profile": "Choose the model in the settings, then start a new conversation.",
    "switch_acp_model": "Choose the model in the settings, then start a new conversation.",
    "children": "Create a conversation with `parent_conversation_id`.",
    "goal": "",
    "goal/stop": "",
    "goal/resume": "",
    "agent_final_response": "Read the last message of the agent in …/events/search.",
    "runtime": "Read `execution_status` in the conversation's record.",
    "runtime/reprovision": "Use POST /api/v1/conversations/{id}/resume.",
}
"""Routes below ``/api/conversations/{id}/`` of openhands-agent-server 1.58.2, with what to use instead."""
BASH_ROUTES = {
    "execute_bash_command": "The command was not run. Ask the agent to run it.",
    "start_bash_command": "The command was not run. Ask the agent to run it.",
    "bash_events/search": "Read the events of the conversation instead.",
}
"""Routes of the engine for its whole sandbox, below ``/api/bash/``."""
ROUTE = OpenApiParameter("route", str, OpenApiParameter.PATH)


class NotServed(Problem):
    """The engine has this route, and this server does not."""

    status = 501
    code = "not-served"


@RouteFacts(replaced_by=NOTHING)
class UnservedView(EngineView):
    """A route for one conversation that is not served."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="runtime_unserved_get",
        tags=TAGS,
        parameters=[ID, ROUTE],
        request=None,
        responses={501: OpenApiTypes.OBJECT},
    )
    def get(self, request: Request, pk: str, route: str) -> Response:
        """Respond with 501, or with 404 if the caller may not see the conversation."""
        self.get_conversation(pk)
        raise refuse(route, CONVERSATION_ROUTES)

    @extend_schema(
        operation_id="runtime_unserved_post",
        tags=TAGS,
        parameters=[ID, ROUTE],
        request=None,
        responses={501: OpenApiTypes.OBJECT},
    )
    def post(self, request: Request, pk: str, route: str) -> Response:
        """Respond with 501, or with 404 if the caller may not see the conversation."""
        self.get_conversation(pk)
        raise refuse(route, CONVERSATION_ROUTES)


@RouteFacts(replaced_by=NOTHING)
class UnservedSandboxView(V1View):
    """A route for a whole sandbox that is not served."""

    permission = "conversations.view"
    serializer_class: Any = None

    @extend_schema(
        operation_id="runtime_bash_unserved_get",
        tags=TAGS,
        parameters=[ROUTE],
        request=None,
        responses={501: OpenApiTypes.OBJECT},
    )
    def get(self, request: Request, route: str) -> Response:
        """Respond with 501."""
        raise refuse(route, BASH_ROUTES)

    @extend_schema(
        operation_id="runtime_bash_unserved_post",
        tags=TAGS,
        parameters=[ROUTE],
        request=None,
        responses={501: OpenApiTypes.OBJECT},
    )
    def post(self, request: Request, route: str) -> Response:
        """Respond with 501. Nothing was run."""
        raise refuse(route, BASH_ROUTES)


def refuse(route: str, reasons: dict[str, str]) -> NotServed:
    """Return the exception for a route, with what to use instead."""
    return NotServed(
        f"This server does not serve the engine's route {route}. {reasons[route]}".strip()
    )
