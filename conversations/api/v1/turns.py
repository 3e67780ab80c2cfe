"""API endpoints for a conversation's turns. A turn is a user's message with all events up to the next message."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from conversations import services
from conversations.api.v1.mixins import NestedMixin


class TurnSerializer(serializers.Serializer[Any]):
    """A user's message and all events up to the next message."""

    number = serializers.IntegerField()
    from_seq = serializers.IntegerField()
    through_seq = serializers.IntegerField()
    is_complete = serializers.BooleanField()
    text = serializers.CharField(allow_blank=True)
    started_at = serializers.DateTimeField()


@extend_schema_serializer(many=False)
class TurnsSerializer(serializers.Serializer[Any]):
    items = TurnSerializer(many=True)


class TurnFileSerializer(serializers.Serializer[Any]):
    path = serializers.CharField()
    status = serializers.ChoiceField(choices=["ADDED", "UPDATED"])
    diff = serializers.CharField(
        allow_null=True,
        allow_blank=True,
        help_text="A unified diff; null if the log does not contain the text before or after the turn.",
    )
    is_truncated = serializers.BooleanField(
        help_text="Whether the diff was cut, because it has more than 200,000 characters."
    )


class TurnDiffSerializer(serializers.Serializer[Any]):
    """The files that the agent's editor changed in a turn."""

    turn = TurnSerializer()
    items = TurnFileSerializer(many=True)
    ran_commands = serializers.BooleanField(
        help_text="Whether the agent ran commands in the turn. The log does not show which files the commands changed. "
        "Request `git/changes` for those files."
    )


class TurnViewSet(NestedMixin, viewsets.ViewSet):
    """The turns of a conversation, computed from its log."""

    permission = "conversations.view"
    permissions_by_action = {"diff": "files.view"}  # noqa: RUF012 - read by HasPermission
    lookup_url_kwarg = "number"
    lookup_value_converter = "int"

    @extend_schema(operation_id="conversations_turns", responses=TurnsSerializer)
    def list(self, request: Request, pk: UUID) -> Response:
        """List the conversation's turns, oldest first."""
        turns = services.list_turns(conversation=self.get_conversation())
        return Response({"items": [asdict(turn) for turn in turns]})

    @extend_schema(operation_id="conversations_turns_diff", responses=TurnDiffSerializer)
    @action(detail=True, methods=["get"])
    def diff(self, request: Request, pk: UUID, number: int) -> Response:
        """List the files that the agent's editor changed in a turn. The sandbox need not be running."""
        changes = services.find_turn_changes(conversation=self.get_conversation(), number=number)
        return Response(
            {
                "turn": asdict(changes.turn),
                "items": [change.to_wire() for change in changes.files],
                "ran_commands": changes.ran_commands,
            }
        )
