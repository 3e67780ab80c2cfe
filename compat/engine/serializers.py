"""Serializers of the engine's API."""

from typing import Any

from rest_framework import serializers

from accounts.settings.choices import ConfirmationPolicy
from compat.v1.base import PageQuery
from compat.v1.serializers import V1MessageSerializer
from conversations.engine.payloads import build_policy

POLICIES = {build_policy(policy)["kind"]: policy.value for policy in ConfirmationPolicy}


class RuntimeNewConversationSerializer(serializers.Serializer[Any]):
    """A new conversation, the engine's ``StartConversationRequest``.

    This server chooses the agent, the model and the tools. Fields of the request that set them are ignored.
    """

    conversation_id = serializers.UUIDField(required=False, allow_null=True)
    initial_message = V1MessageSerializer(required=False, allow_null=True)
    confirmation_policy = serializers.DictField(required=False, allow_null=True)


def parse_policy(body: dict[str, Any]) -> str:
    """Return the ``ConfirmationPolicy`` that a body names. If the body names no known policy, return ``NEVER``."""
    kind = str((body.get("confirmation_policy") or {}).get("kind"))
    return POLICIES.get(kind, ConfirmationPolicy.NEVER.value)


class RuntimeAnswerSerializer(serializers.Serializer[Any]):
    """The user's answer when the agent asks for confirmation: accept or reject, with a reason."""

    accept = serializers.BooleanField()
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=2_000)


class EventSearchQuery(PageQuery):
    """Query parameters of a search for events: filters, order and page."""

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
    """A file to upload."""

    file = serializers.FileField(max_length=255)


class RuntimeUploadedSerializer(serializers.Serializer[Any]):
    """The result of an upload. ``file_size`` is in bytes."""

    success = serializers.BooleanField()
    file_size = serializers.IntegerField()


class RuntimeChangeSerializer(serializers.Serializer[Any]):
    """A changed file."""

    status = serializers.ChoiceField(choices=["ADDED", "UPDATED", "DELETED", "MOVED"])
    path = serializers.CharField()


class RuntimeDiffSerializer(serializers.Serializer[Any]):
    """The contents of a changed file, before and after the change."""

    modified = serializers.CharField(allow_null=True)
    original = serializers.CharField(allow_null=True)
