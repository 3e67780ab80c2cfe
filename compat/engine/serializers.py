"""Serializers of the engine's API."""

from typing import Any

from rest_framework import serializers

from compat.v1.base import PageQuery
from compat.v1.serializers import V1MessageSerializer
from conversations.api.v1.serializers import UPLOAD_ERRORS
from lib.api import MomentField


class RuntimeNewConversationSerializer(serializers.Serializer[Any]):
    """A new conversation, the engine's ``StartConversationRequest``.

    This server chooses the model and the condenser. ``compat.engine.options`` checks the fields that are not here.
    """

    conversation_id = serializers.UUIDField(required=False, allow_null=True)
    parent_conversation_id = serializers.UUIDField(required=False, allow_null=True)
    initial_message = V1MessageSerializer(required=False, allow_null=True)


class RuntimePolicySerializer(serializers.Serializer[Any]):
    """A new confirmation policy, as an object with its `kind`."""

    policy = serializers.DictField()


class RuntimeAnalyzerSerializer(serializers.Serializer[Any]):
    """A new security analyzer, as an object with its `kind`, or null for none."""

    security_analyzer = serializers.DictField(allow_null=True)


class RuntimeChangeConversationSerializer(serializers.Serializer[Any]):
    """A new title or new tags of a conversation."""

    title = serializers.CharField(required=False, allow_null=True, min_length=1, max_length=200)
    tags = serializers.DictField(required=False, allow_null=True)


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
    timestamp__gte = MomentField(required=False)
    timestamp__lt = MomentField(required=False)
    sort_order = serializers.ChoiceField(
        choices=["TIMESTAMP", "TIMESTAMP_DESC"], required=False, default="TIMESTAMP"
    )


class RuntimeUploadSerializer(serializers.Serializer[Any]):
    """A file to upload."""

    file = serializers.FileField(
        max_length=255, allow_empty_file=True, error_messages=UPLOAD_ERRORS
    )


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
