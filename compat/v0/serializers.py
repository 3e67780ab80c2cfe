"""Shapes of V0's requests and answers. Fields that a request does not have are refused, as V0 does."""

from typing import Any

from rest_framework import serializers

from conversations.models import Conversation
from lib.problems import Problem

TEXT_LENGTH = 200_000
STATUSES = ("STARTING", "RUNNING", "STOPPED", "ARCHIVED", "ERROR")


class Unprocessable(Problem):
    """A body or query that V0's own validation answers 422 for."""

    status = 422
    code = "invalid"
    sentence = "The request does not have the shape that this route takes."


class Strict(serializers.Serializer[Any]):
    """Unknown fields are errors."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = set(data) - set(self.fields) if isinstance(data, dict) else set()
        if unknown:
            raise serializers.ValidationError(
                {str(name)[:80]: ["This route has no such field."] for name in unknown}
            )
        return super().to_internal_value(data)


def checked(kind: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
    """Validated data. Raises ``Unprocessable`` with the fields under ``errors``."""
    found = kind(data=data)
    if found.is_valid():
        return dict(found.validated_data)
    errors = found.errors if isinstance(found.errors, dict) else {"non_field_errors": found.errors}
    name, first = next(iter(errors.items()))
    said = first[0] if isinstance(first, list) and first else first
    raise Unprocessable(f"{name}: {said}", errors=errors)


class Text(serializers.CharField):
    """A text as it was written."""

    def __init__(self, **options: Any) -> None:
        defaults = {"trim_whitespace": False, "allow_blank": True, "max_length": TEXT_LENGTH}
        super().__init__(**defaults | options)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):  # DRF would take a number for its digits
            self.fail("invalid")
        return super().to_internal_value(data)


def optional(**options: Any) -> Text:
    return Text(required=False, allow_null=True, **options)


class SuggestedTaskSerializer(serializers.Serializer[Any]):
    """A task as the list of suggestions gives it."""

    git_provider = serializers.CharField(max_length=40)
    task_type = serializers.CharField(max_length=40)
    repo = serializers.CharField(max_length=300)
    issue_number = serializers.IntegerField()
    title = serializers.CharField(max_length=1_000, allow_blank=True)


class CreateMicroagentSerializer(serializers.Serializer[Any]):
    """What a piece of knowledge is to be made for."""

    repo = serializers.CharField(max_length=300)
    git_provider = serializers.CharField(max_length=40, required=False, allow_null=True)
    title = serializers.CharField(max_length=200, required=False, allow_null=True)


class V0ConversationCreateSerializer(Strict):
    """A new conversation."""

    repository = optional(max_length=300)
    git_provider = optional(max_length=40)
    selected_branch = optional(max_length=250)
    initial_user_msg = optional()
    image_urls = serializers.ListField(
        child=serializers.CharField(max_length=2_000_000), required=False, allow_null=True
    )
    replay_json = optional(max_length=None)
    suggested_task = SuggestedTaskSerializer(required=False, allow_null=True)
    create_microagent = CreateMicroagentSerializer(required=False, allow_null=True)
    conversation_instructions = optional()
    mcp_config = serializers.DictField(required=False, allow_null=True)


class V0ListQuery(serializers.Serializer[Any]):
    """The list's page and filters."""

    page_id = serializers.CharField(required=False, max_length=300)
    limit = serializers.IntegerField(required=False, default=20, min_value=1, max_value=100)
    selected_repository = serializers.CharField(required=False, max_length=300)
    conversation_trigger = serializers.ChoiceField(
        required=False, choices=Conversation.Trigger.choices
    )
    include_sub_conversations = serializers.BooleanField(required=False, default=False)


class V0EventQuery(serializers.Serializer[Any]):
    """Which events; the filters may come in the query or, as V0 has it, in the body of the GET."""

    start_id = serializers.IntegerField(required=False, default=0, min_value=0, max_value=2**62)
    end_id = serializers.IntegerField(required=False, allow_null=True, min_value=0, max_value=2**62)
    reverse = serializers.BooleanField(required=False, default=False)
    limit = serializers.IntegerField(required=False, default=20)
    exclude_hidden = serializers.BooleanField(required=False, default=False)
    query = serializers.CharField(required=False, allow_null=True, max_length=1_000)
    include_types = serializers.ListField(
        child=serializers.CharField(max_length=80), required=False, allow_null=True, max_length=50
    )
    exclude_types = serializers.ListField(
        child=serializers.CharField(max_length=80), required=False, allow_null=True, max_length=50
    )
    source: Any = serializers.CharField(  # Any: DRF's ``source`` is a string
        required=False, allow_null=True, max_length=40
    )
    start_date = serializers.DateTimeField(required=False, allow_null=True)
    end_date = serializers.DateTimeField(required=False, allow_null=True)


class V0TitleSerializer(Strict):
    title = serializers.CharField(min_length=1, max_length=200)


class V0StartSerializer(serializers.Serializer[Any]):
    providers_set = serializers.ListField(
        child=serializers.CharField(max_length=40), required=False, allow_null=True
    )


class V0MessageSerializer(Strict):
    message = Text(allow_blank=False)


class V0ExperimentSerializer(serializers.Serializer[Any]):
    config = serializers.DictField(required=False, allow_null=True)


class V0UploadSerializer(serializers.Serializer[Any]):
    files = serializers.ListField(child=serializers.FileField())


class V0SubmitFeedbackSerializer(serializers.Serializer[Any]):
    """What somebody thinks of a whole conversation."""

    email = serializers.CharField(max_length=254, required=False, allow_blank=True)
    version = serializers.CharField(max_length=40, required=False, allow_blank=True)
    permissions = serializers.ChoiceField(choices=["public", "private"], default="private")
    polarity = serializers.ChoiceField(choices=["positive", "negative"])
    feedback = Text(required=False, allow_null=True, max_length=10_000)


class V0FeedbackSerializer(serializers.Serializer[Any]):
    """What somebody thinks of one event."""

    conversation_id = serializers.UUIDField()
    event_id = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=2**62
    )
    rating = serializers.IntegerField(min_value=1, max_value=5)
    reason = Text(required=False, allow_null=True, max_length=10_000)
    metadata = serializers.DictField(required=False, allow_null=True)


# --- Answers ------------------------------------------------------------------------


class V0ConversationSerializer(serializers.Serializer[Any]):
    """``ConversationInfo``."""

    conversation_id = serializers.CharField()
    title = serializers.CharField(allow_blank=True)
    last_updated_at = serializers.DateTimeField()
    status = serializers.ChoiceField(choices=STATUSES)
    runtime_status = serializers.CharField()
    selected_repository = serializers.CharField(allow_null=True)
    selected_branch = serializers.CharField(allow_null=True)
    git_provider = serializers.CharField(allow_null=True)
    trigger = serializers.CharField()
    num_connections = serializers.IntegerField()
    url = serializers.CharField()
    session_api_key = serializers.CharField()
    created_at = serializers.DateTimeField()
    pr_number = serializers.ListField(child=serializers.IntegerField())
    conversation_version = serializers.ChoiceField(choices=["V0", "V1"])
    sub_conversation_ids = serializers.ListField(child=serializers.CharField())


class V0ConversationsSerializer(serializers.Serializer[Any]):
    results = V0ConversationSerializer(many=True)
    next_page_id = serializers.CharField(allow_null=True)


class V0ConversationResponseSerializer(serializers.Serializer[Any]):
    status = serializers.CharField()
    conversation_id = serializers.CharField()
    conversation_status = serializers.ChoiceField(choices=STATUSES)
    message = serializers.CharField(allow_null=True)


class V0EventsSerializer(serializers.Serializer[Any]):
    events = serializers.ListField(child=serializers.DictField())
    has_more = serializers.BooleanField()
