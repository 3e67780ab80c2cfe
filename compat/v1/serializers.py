"""Serializers of V1 requests and responses. The response serializers only describe the OpenAPI document."""

from typing import Any

from rest_framework import serializers

from compat.v1.base import PageQuery, TimesQuery
from conversations.models import Conversation, StartTask
from lib.api import MomentField

TEXT_LENGTH = 1_000_000
MAX_PARTS = 100
MAX_IMAGES = 20


class V1ImageUrlSerializer(serializers.Serializer[Any]):
    """The image of a part with the type `image_url`."""

    url = serializers.CharField()


class V1ContentSerializer(serializers.Serializer[Any]):
    """A part of a message: text, or images as data URLs or https URLs.

    The engine's form of an image is `image` with `image_urls`. The web client's socket sends `image_url`.
    """

    type = serializers.ChoiceField(choices=["text", "image", "image_url"])
    text = serializers.CharField(
        required=False, allow_blank=True, trim_whitespace=False, max_length=TEXT_LENGTH
    )
    image_urls = serializers.ListField(
        child=serializers.CharField(), required=False, max_length=MAX_IMAGES
    )
    image_url = V1ImageUrlSerializer(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["type"] == "image_url" and "image_url" not in attrs:
            raise serializers.ValidationError({"image_url": ["This type of part needs the field."]})
        return attrs


def nullable_rows_schema(name: str) -> dict[str, Any]:
    """Return the OpenAPI schema of an array in which each item has the named component schema or is null."""
    row = {"allOf": [{"$ref": f"#/components/schemas/{name}"}], "nullable": True}
    return {"type": "array", "items": row}


class V1MessageSerializer(serializers.Serializer[Any]):
    """A message for the agent."""

    role = serializers.ChoiceField(choices=["user"], default="user")
    content: serializers.ListSerializer[Any] = serializers.ListSerializer(
        child=V1ContentSerializer(), max_length=MAX_PARTS
    )
    run = serializers.BooleanField(required=False, default=False)


def split_message(message: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the text and the image URLs of a validated message."""
    parts = message["content"]
    texts = [part.get("text", "") for part in parts if part["type"] == "text"]
    images: list[str] = []
    for part in parts:
        images += part.get("image_urls") or []
        if part["type"] == "image_url":
            images.append(part["image_url"]["url"])
    return "\n".join(texts), images


class V1StartRequestSerializer(serializers.Serializer[Any]):
    """A request for a new conversation, OpenHands' ``AppConversationStartRequest``."""

    sandbox_id = serializers.CharField(required=False, allow_null=True, max_length=64)
    conversation_id = serializers.UUIDField(required=False, allow_null=True)
    initial_message = V1MessageSerializer(required=False, allow_null=True)
    system_message_suffix = serializers.CharField(required=False, allow_null=True, allow_blank=True)
    processors = serializers.ListField(required=False, allow_null=True)
    llm_model = serializers.CharField(required=False, allow_null=True, max_length=200)
    selected_repository = serializers.CharField(required=False, allow_null=True, max_length=200)
    selected_branch = serializers.CharField(required=False, allow_null=True, max_length=200)
    git_provider = serializers.CharField(required=False, allow_null=True, max_length=40)
    title = serializers.CharField(required=False, allow_null=True, max_length=200)
    trigger = serializers.ChoiceField(
        choices=Conversation.Trigger.choices, required=False, allow_null=True
    )
    pr_number = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**31 - 1),
        required=False,
        allow_null=True,
        max_length=100,
    )
    parent_conversation_id = serializers.UUIDField(required=False, allow_null=True)
    agent_type = serializers.ChoiceField(
        choices=["default", "plan"], required=False, allow_null=True
    )


class V1StartTaskSerializer(serializers.Serializer[Any]):
    """A start task of a conversation, OpenHands' ``AppConversationStartTask``."""

    id = serializers.CharField()
    created_by_user_id = serializers.CharField()
    status = serializers.ChoiceField(choices=StartTask.Phase.choices)
    detail = serializers.CharField(allow_null=True)
    app_conversation_id = serializers.CharField(allow_null=True)
    sandbox_id = serializers.CharField(allow_null=True)
    agent_server_url = serializers.CharField(allow_null=True)
    request = serializers.DictField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


SANDBOX_STATUSES = ["STARTING", "RUNNING", "PAUSED", "ERROR", "MISSING"]


class AppConversationSerializer(serializers.Serializer[Any]):
    """A conversation, OpenHands' ``AppConversation``."""

    id = serializers.CharField()
    created_by_user_id = serializers.CharField()
    sandbox_id = serializers.CharField(allow_blank=True)
    selected_repository = serializers.CharField(allow_null=True)
    selected_branch = serializers.CharField(allow_null=True)
    git_provider = serializers.CharField(allow_null=True)
    title = serializers.CharField()
    trigger = serializers.CharField()
    pr_number = serializers.ListField(child=serializers.IntegerField())
    llm_model = serializers.CharField()
    metrics = serializers.DictField()
    parent_conversation_id = serializers.CharField(allow_null=True)
    sub_conversation_ids = serializers.ListField(child=serializers.CharField())
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    sandbox_status = serializers.ChoiceField(choices=SANDBOX_STATUSES)
    execution_status = serializers.CharField(allow_null=True)
    conversation_url = serializers.CharField(allow_null=True)
    session_api_key = serializers.CharField(allow_null=True)


class AppConversationPageSerializer(serializers.Serializer[Any]):
    """A page of conversations."""

    items = AppConversationSerializer(many=True)
    next_page_id = serializers.CharField(allow_null=True)


class V1StartTaskPageSerializer(serializers.Serializer[Any]):
    """A page of start tasks."""

    items = V1StartTaskSerializer(many=True)
    next_page_id = serializers.CharField(allow_null=True)


class SearchQuery(TimesQuery):
    """Query parameters that filter a search for conversations."""

    title__contains = serializers.CharField(required=False, max_length=200)
    include_sub_conversations = serializers.BooleanField(required=False, default=False)


class ConversationPageQuery(SearchQuery, PageQuery):
    """Query parameters of a search for conversations: filters and page."""


class StartQuery(serializers.Serializer[Any]):
    """Query parameters that filter a search for start tasks."""

    conversation_id__eq = serializers.UUIDField(required=False)
    created_at__gte = MomentField(required=False)


class StartPageQuery(StartQuery, PageQuery):
    """Query parameters of a search for start tasks: filters, order and page."""

    sort_order = serializers.ChoiceField(
        choices=["CREATED_AT", "CREATED_AT_DESC"], required=False, default="CREATED_AT_DESC"
    )


class V1ExposedUrlSerializer(serializers.Serializer[Any]):
    """A URL at which clients reach a sandbox."""

    name = serializers.CharField()
    url = serializers.CharField()
    port = serializers.IntegerField()


class V1SandboxSerializer(serializers.Serializer[Any]):
    """A sandbox, OpenHands' ``SandboxInfo``."""

    id = serializers.CharField()
    created_by_user_id = serializers.CharField()
    sandbox_spec_id = serializers.CharField()
    status = serializers.ChoiceField(choices=SANDBOX_STATUSES)
    session_api_key = serializers.CharField(allow_null=True)
    exposed_urls = V1ExposedUrlSerializer(many=True, allow_null=True)
    created_at = serializers.DateTimeField()


class V1SandboxPageSerializer(serializers.Serializer[Any]):
    """A page of sandboxes."""

    items = V1SandboxSerializer(many=True)
    next_page_id = serializers.CharField(allow_null=True)


class V1SandboxSpecSerializer(serializers.Serializer[Any]):
    """A sandbox specification, OpenHands' ``SandboxSpecInfo``."""

    id = serializers.CharField()
    command = serializers.ListField(child=serializers.CharField(), allow_null=True)
    created_at = serializers.DateTimeField()
    initial_env = serializers.DictField(child=serializers.CharField())
    working_dir = serializers.CharField()


class V1SandboxSpecPageSerializer(serializers.Serializer[Any]):
    """A page of sandbox specifications."""

    items = V1SandboxSpecSerializer(many=True)
    next_page_id = serializers.CharField(allow_null=True)


class EventQuery(serializers.Serializer[Any]):
    """Query parameters that filter a search for events."""

    conversation_id__eq = serializers.UUIDField(required=False)
    kind__eq = serializers.CharField(required=False, max_length=80)
    timestamp__gte = MomentField(required=False)
    timestamp__lt = MomentField(required=False)


class EventPageQuery(EventQuery, PageQuery):
    """Query parameters of a search for events: filters, order and page."""

    sort_order = serializers.ChoiceField(
        choices=["TIMESTAMP", "TIMESTAMP_DESC"], required=False, default="TIMESTAMP"
    )


class V1EventPageSerializer(serializers.Serializer[Any]):
    """A page of events."""

    items = serializers.ListField(child=serializers.DictField())
    next_page_id = serializers.CharField(allow_null=True)


class V1SuccessSerializer(serializers.Serializer[Any]):
    """The response to a request that returns no data."""

    success = serializers.BooleanField()
