"""Bodies and answers of the engine's API."""

from typing import Any

from rest_framework import serializers

from accounts.settings.choices import ConfirmationPolicy
from compat.v1.base import PageQuery
from compat.v1.shapes import V1MessageSerializer
from conversations.engine.payloads import build_policy

POLICIES = {build_policy(policy)["kind"]: policy.value for policy in ConfirmationPolicy}


class RuntimeNewConversationSerializer(serializers.Serializer[Any]):
    """``StartConversationRequest``; the agent, its model and its tools are this server's affair."""

    conversation_id = serializers.UUIDField(required=False, allow_null=True)
    initial_message = V1MessageSerializer(required=False, allow_null=True)
    confirmation_policy = serializers.DictField(required=False, allow_null=True)


def policy_of(body: dict[str, Any]) -> str:
    """Return the ``ConfirmationPolicy`` that a body asks for; never to ask if it names no known one."""
    kind = str((body.get("confirmation_policy") or {}).get("kind"))
    return POLICIES.get(kind, ConfirmationPolicy.NEVER.value)


class RuntimeAnswerSerializer(serializers.Serializer[Any]):
    """Yes or no to what the agent asked."""

    accept = serializers.BooleanField()
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=2_000)


class EventSearchQuery(PageQuery):
    """Which events of a conversation."""

    kind = serializers.CharField(required=False, max_length=80)
    source: Any = serializers.CharField(
        required=False, max_length=16
    )  # Any: DRF's ``source`` is a string
    timestamp__gte = serializers.DateTimeField(required=False)
    timestamp__lt = serializers.DateTimeField(required=False)
    sort_order = serializers.ChoiceField(
        choices=["TIMESTAMP", "TIMESTAMP_DESC"], required=False, default="TIMESTAMP"
    )


class RuntimeUploadSerializer(serializers.Serializer[Any]):
    file = serializers.FileField(max_length=255)


class RuntimeUploadedSerializer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    file_size = serializers.IntegerField()


class RuntimeChangeSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ADDED", "UPDATED", "DELETED", "MOVED"])
    path = serializers.CharField()


class RuntimeDiffSerializer(serializers.Serializer[Any]):
    modified = serializers.CharField(allow_null=True)
    original = serializers.CharField(allow_null=True)
