"""API endpoints for a conversation's sandbox: its state, and the commands that start and pause the sandbox."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.requests import ApiRequest
from accounts.roles import STOP
from conversations import services
from conversations.api.v1.mixins import NestedMixin
from conversations.models import Conversation
from lib.api import parse_query
from lib.routes import RouteFacts


class SandboxLimitsSerializer(serializers.Serializer[Any]):
    """The limits of the sandbox."""

    idle_seconds = serializers.IntegerField(
        help_text="The seconds without use after which a sandbox is stopped. The sandbox's files are kept."
    )
    start_seconds = serializers.IntegerField(
        help_text="The seconds after which a start fails if the engine has not answered."
    )
    max_running = serializers.IntegerField(
        help_text="The largest number of sandboxes that an organization may run at the same time."
    )
    memory_bytes = serializers.IntegerField(
        allow_null=True,
        help_text="The memory above which the sandbox is stopped; null without a limit.",
    )
    processes = serializers.IntegerField(
        allow_null=True,
        help_text="The largest number of processes and threads; null without a limit.",
    )
    disk_bytes = serializers.IntegerField(
        allow_null=True,
        help_text="The size of all files above which the sandbox is stopped; null without a limit.",
    )


class WallSerializer(serializers.Serializer[Any]):
    """One of the walls between a sandbox and the server's machine."""

    name = serializers.CharField()
    in_force = serializers.BooleanField()
    detail = serializers.CharField(help_text="One or two sentences for people.")


class IsolationSerializer(serializers.Serializer[Any]):
    """The isolation of a sandbox in words."""

    word = serializers.CharField(help_text="A label, such as “Isolated” or “Not isolated”.")
    meaning = serializers.CharField(help_text="One or two sentences for people.")
    is_isolated = serializers.BooleanField(
        help_text="Whether tested walls separate the agent from the server's machine."
    )
    walls = WallSerializer(many=True)


class SandboxUsageSerializer(serializers.Serializer[Any]):
    """The resources that a running sandbox used at a time."""

    at = serializers.DateTimeField(help_text="When the sandbox was measured.")
    memory_bytes = serializers.IntegerField()
    processes = serializers.IntegerField(help_text="The number of processes without threads.")
    disk_bytes = serializers.IntegerField()


class SandboxSerializer(serializers.Serializer[Any]):
    """The sandbox of a conversation. If the sandbox failed, the conversation's ``status_detail`` says why."""

    id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=[status.value for status in services.SandboxStatus])
    since = serializers.DateTimeField(
        allow_null=True, help_text="When the status began; null if this was not recorded."
    )
    queue_position = serializers.IntegerField(
        allow_null=True,
        help_text="The position in the organization's queue for a sandbox, from 1; null if the sandbox is not waiting.",
    )
    detail = serializers.CharField(
        allow_blank=True,
        help_text="For what the start of the sandbox waits, with the progress; empty if it does not wait.",
    )
    provider = serializers.CharField()
    engine_version = serializers.CharField(
        allow_blank=True,
        help_text="The version of the agent engine; empty until the engine has answered for the first time.",
    )
    runs = serializers.IntegerField(help_text="The number of times that the engine was started.")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(
        allow_null=True, help_text="When the engine was last started."
    )
    stopped_at = serializers.DateTimeField(
        allow_null=True, help_text="When the sandbox was stopped; null while it runs."
    )
    last_used_at = serializers.DateTimeField()
    limits = SandboxLimitsSerializer()
    isolation = IsolationSerializer(
        help_text="The isolation in force, or that of the next start if the sandbox does not run."
    )
    usage = SandboxUsageSerializer(
        allow_null=True,
        help_text="The newest measurement; null if the sandbox does not run or is not measured.",
    )


class NoQuery(serializers.Serializer[Any]):
    """The query string of a route that has no query parameters."""


class SandboxViewSet(NestedMixin, viewsets.ViewSet):
    """The sandbox in which the agent of a conversation works."""

    permissions_by_action = {  # noqa: RUF012 - read by HasPermission
        "retrieve": "conversations.view",
        "start": "conversations.steer",
        "resume": "conversations.steer",
        "pause": "conversations.steer",
    }

    object_permissions_by_action = {"pause": STOP}  # noqa: RUF012 - read by HasPermission

    def get_conversations(self) -> QuerySet[Conversation]:
        return super().get_conversations().select_related("sandbox")

    @extend_schema(operation_id="conversations_sandbox_retrieve", responses=SandboxSerializer)
    def retrieve(self, request: Request, pk: UUID) -> Response:
        """Return the state of the sandbox."""
        conversation = self.get_conversation()
        parse_query(NoQuery, request)
        return self._respond(conversation)

    @RouteFacts(cost="spend")
    @extend_schema(
        operation_id="conversations_sandbox_start",
        request=None,
        responses={202: SandboxSerializer},
    )
    @action(detail=True, methods=["post"])
    def start(self, request: ApiRequest, pk: UUID) -> Response:
        """Start the sandbox if it is not running. If the agent was stopped, it does not continue.

        Repeating the request is safe.
        """
        conversation = self._get_conversation_with_sandbox()
        services.wake(conversation_id=conversation.pk, by=request.user)
        return self._respond_changed(conversation)

    @RouteFacts(cost="spend")
    @extend_schema(
        operation_id="conversations_sandbox_resume",
        request=None,
        responses={202: SandboxSerializer},
    )
    @action(detail=True, methods=["post"])
    def resume(self, request: ApiRequest, pk: UUID) -> Response:
        """Start the sandbox if it is not running, and let an agent that was stopped or failed continue.

        Repeating the request is safe.
        """
        conversation = self._get_conversation_with_sandbox()
        services.resume(conversation_id=conversation.pk, by=request.user)
        return self._respond_changed(conversation)

    @extend_schema(
        operation_id="conversations_sandbox_pause",
        request=None,
        responses={202: SandboxSerializer},
    )
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: UUID) -> Response:
        """Stop the sandbox and its agent. Files are kept, and the next message starts the sandbox again.

        Repeating the request is safe.
        """
        conversation = self._get_conversation_with_sandbox()
        services.pause_sandbox(conversation_id=conversation.pk)
        return self._respond_changed(conversation)

    def _get_conversation_with_sandbox(self) -> Conversation:
        conversation = self.get_conversation()
        if conversation.sandbox is None:
            raise services.NoSandbox
        return conversation

    def _respond(self, conversation: Conversation, status: int = 200) -> Response:
        state = services.describe_sandbox(conversation=conversation)
        return Response(SandboxSerializer(state).data, status=status)

    def _respond_changed(self, conversation: Conversation) -> Response:
        conversation.refresh_from_db()
        return self._respond(conversation, status=202)
