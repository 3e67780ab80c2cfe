"""Serializers of request bodies, query strings and responses for conversations, events and files.

Records are built by ``conversations.log.records``; their serializers only describe them in the OpenAPI document.
"""

import re
from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from accounts.settings.choices import ConfirmationPolicy, SecurityAnalyzer
from conversations.models import Conversation, Event, StartTask
from conversations.services.exports import FORMATS

TEXT_LENGTH = 1_000_000
# The anchors are needed: `RegexField` searches for the pattern, so it would accept a match inside the text.
_FULL_NAME = re.compile(
    r"\A(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)+\Z"
)
_TAG = re.compile(r"\A[^\x00-\x1f\x7f,\ud800-\udfff]{1,50}\Z")
_BRANCH = re.compile(r"\A(?!-)[A-Za-z0-9_./+@#-]{1,200}\Z")


class RepositorySerializer(serializers.Serializer[Any]):
    """A repository to clone into the workspace."""

    provider = serializers.ChoiceField(choices=["github", "gitlab", "bitbucket"])
    full_name = serializers.RegexField(_FULL_NAME, max_length=200)
    branch = serializers.RegexField(_BRANCH, required=False, allow_null=True)


class TokensSerializer(serializers.Serializer[Any]):
    prompt = serializers.IntegerField()
    completion = serializers.IntegerField()
    cached = serializers.IntegerField()


class PhaseSerializer(serializers.Serializer[Any]):
    phase = serializers.ChoiceField(choices=StartTask.Phase.choices)
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)
    detail = serializers.CharField(allow_blank=True)
    percent = serializers.IntegerField(
        required=False,
        allow_null=True,
        help_text="Only in a phase that waits for an installation: the share that is done, from 0 to 99; null if it is "
        "not known.",
    )


class StartTaskSerializer(serializers.Serializer[Any]):
    """An attempt to start the sandbox."""

    id = serializers.UUIDField()
    phase = serializers.ChoiceField(choices=StartTask.Phase.choices)
    phases = PhaseSerializer(many=True)
    detail = serializers.CharField(
        allow_blank=True,
        help_text="For what the start waits, with the progress, such as “The agent engine is being installed: 120 of "
        "194 packages, about 15 s left.” Empty if it does not wait.",
    )
    reason = serializers.CharField()
    error = serializers.CharField(allow_blank=True)
    attempts = serializers.IntegerField()
    queue_position = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class ConversationSerializer(serializers.Serializer[Any]):
    """A conversation's record."""

    id = serializers.UUIDField()
    title = serializers.CharField()
    status = serializers.ChoiceField(choices=Conversation.Status.choices)
    status_detail = serializers.CharField(allow_blank=True)
    execution_status = serializers.ChoiceField(choices=Conversation.ExecutionStatus.choices)
    visibility = serializers.ChoiceField(choices=Conversation.Visibility.choices)
    others_may_steer = serializers.BooleanField(
        help_text="Whether members who can read the conversation may also steer its agent. Without this, sharing is "
        "read-only."
    )
    lends_personal = serializers.BooleanField(
        help_text="Whether the creator agreed that the run uses the creator's own secrets, Git token, MCP servers and "
        "model although others steer it. Without this, it uses only what the organization lends."
    )
    lender = serializers.ChoiceField(
        choices=Conversation.Lender.choices,
        help_text="Whose secrets, Git token, MCP servers, search key and model the run uses.",
    )
    confirmation_policy = serializers.ChoiceField(choices=ConfirmationPolicy.values)
    security_analyzer = serializers.ChoiceField(choices=SecurityAnalyzer.values)
    asked_seq = serializers.IntegerField(
        allow_null=True,
        help_text="The seq of the agent's open question. Send this value with the answer.",
    )
    last_seq = serializers.IntegerField()
    epoch = serializers.IntegerField()
    model = serializers.CharField()
    repository = RepositorySerializer(allow_null=True)
    is_external = serializers.BooleanField(
        help_text="Whether another program runs the agent and publishes its events. Such a conversation is read-only."
    )
    trigger = serializers.ChoiceField(choices=Conversation.Trigger.choices)
    tags = serializers.ListField(child=serializers.CharField())
    archived_at = serializers.DateTimeField(allow_null=True)
    parent: Any = serializers.UUIDField(  # Any: DRF's ``parent`` is a serializer
        allow_null=True,
        help_text="The id of the conversation from which this conversation was forked.",
    )
    forked_seq = serializers.IntegerField(
        allow_null=True, help_text="The number of events that were copied from the parent's log."
    )
    pull_requests = serializers.ListField(child=serializers.IntegerField())
    cost_micros = serializers.IntegerField(help_text="The cost in millionths of a US dollar.")
    tokens = TokensSerializer()
    start_task = StartTaskSerializer(allow_null=True)
    organization = serializers.UUIDField()
    created_by = serializers.UUIDField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class MatchPartSerializer(serializers.Serializer[Any]):
    text = serializers.CharField()
    is_hit = serializers.BooleanField()


class MatchSerializer(serializers.Serializer[Any]):
    """The first match of a search in a conversation. If the title matches, ``seq`` is 0. Texts are not HTML."""

    seq = serializers.IntegerField()
    parts = MatchPartSerializer(many=True)


class FoundConversationSerializer(ConversationSerializer):
    """A conversation's record in a list. If the request has ``q``, the record contains the first match."""

    match = MatchSerializer(required=False, allow_null=True)


class TagField(serializers.RegexField):
    """A tag: up to 50 characters without control characters or commas."""

    def __init__(self, **options: Any) -> None:
        super().__init__(_TAG, max_length=50, **options)


class TitleField(serializers.CharField):
    """A title: up to 200 characters that are not all blank. Surrounding spaces are kept."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=200, trim_whitespace=False, **options)

    def to_internal_value(self, data: Any) -> str:
        value: str = super().to_internal_value(data)
        if not value.strip():
            self.fail("blank")
        return value


class NewConversationSerializer(serializers.Serializer[Any]):
    """A new conversation. Every field is optional. Without a message, the sandbox starts and the agent waits."""

    message = serializers.CharField(
        required=False, max_length=TEXT_LENGTH, trim_whitespace=False, allow_null=True
    )
    message_id = serializers.UUIDField(required=False)
    title = TitleField(required=False, allow_null=True)
    repository = RepositorySerializer(required=False, allow_null=True)
    model = serializers.CharField(required=False, max_length=200, allow_null=True)
    visibility = serializers.ChoiceField(
        choices=Conversation.Visibility.choices,
        default=Conversation.Visibility.PRIVATE,
        help_text="`organization` shares the conversation read-only, unless `others_may_steer` is true.",
    )
    others_may_steer = serializers.BooleanField(
        default=False,
        help_text="Whether members who can read the conversation may also steer its agent. The run then uses only the "
        "secrets and the model that the organization lends.",
    )
    lends_personal = serializers.BooleanField(
        default=False,
        help_text="Your consent that the run uses your own secrets, Git token, MCP servers and model although others "
        "steer it. They can make the agent print, copy and use all of these, and you pay for the model calls.",
    )
    confirmation_policy = serializers.ChoiceField(
        choices=ConfirmationPolicy.values,
        required=False,
        help_text="When the agent asks before it acts. The default is the policy in your settings. If your "
        "organization requires confirmation, `never` is ignored.",
    )
    security_analyzer = serializers.ChoiceField(
        choices=SecurityAnalyzer.values,
        required=False,
        help_text="The analyzer that rates the risk of actions. The default is the analyzer in your settings. "
        "An analyzer that your organization enforces overrides this value.",
    )
    tags = serializers.ListField(child=TagField(), max_length=20, default=list)
    organization = serializers.UUIDField(
        required=False,
        help_text="The id of the organization that owns the conversation. The default is the organization of the "
        "API key, or else your active organization.",
    )


class ConversationPatchSerializer(serializers.Serializer[Any]):
    """The fields to change. At least one field is required."""

    title = TitleField(required=False)
    visibility = serializers.ChoiceField(
        choices=Conversation.Visibility.choices,
        required=False,
        help_text="`organization` shares the conversation read-only, unless `others_may_steer` is true.",
    )
    others_may_steer = serializers.BooleanField(
        required=False,
        help_text="Whether members who can read the conversation may also steer its agent. The run then uses only the "
        "secrets and the model that the organization lends.",
    )
    lends_personal = serializers.BooleanField(
        required=False,
        help_text="Your consent that the run uses your own secrets, Git token, MCP servers and model although others "
        "steer or steered it. They can make the agent print, copy and use all of these, and you pay for the model "
        "calls. It ends when the visibility or `others_may_steer` changes.",
    )
    tags = serializers.ListField(child=TagField(), max_length=20, required=False)
    archived = serializers.BooleanField(
        required=False,
        help_text="Whether the conversation is in the archive, and so left out of the default list.",
    )
    confirmation_policy = serializers.ChoiceField(choices=ConfirmationPolicy.values, required=False)
    security_analyzer = serializers.ChoiceField(
        choices=SecurityAnalyzer.values,
        required=False,
        help_text="The analyzer that rates the risk of actions.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            raise serializers.ValidationError("Send at least one field to change.")
        return attrs


class MessageSerializer(serializers.Serializer[Any]):
    """A message to the agent. A repeated request with the same ``message_id`` adds no second message."""

    text = serializers.CharField(max_length=TEXT_LENGTH, trim_whitespace=False)
    message_id = serializers.UUIDField(required=False)
    images = serializers.ListField(
        child=serializers.RegexField(
            r"\A(?:https://|data:image/(?:png|jpeg|gif|webp);base64,)", max_length=2_000_000
        ),
        required=False,
        max_length=8,
        help_text="URLs that start with `https://`, or data URLs of PNG, JPEG, GIF or WebP images.",
    )


class AppendedSerializer(serializers.Serializer[Any]):
    seq = serializers.IntegerField()
    event_id = serializers.CharField()


class AnswerSerializer(serializers.Serializer[Any]):
    accept = serializers.BooleanField()
    reason = serializers.CharField(required=False, allow_blank=True, max_length=4_000, default="")
    asked_seq = serializers.IntegerField(required=False, min_value=1, allow_null=True)


class EventSerializer(serializers.Serializer[Any]):
    seq = serializers.IntegerField()
    event_id = serializers.CharField()
    kind = serializers.CharField()
    source: Any = serializers.ChoiceField(
        choices=Event.Source.choices
    )  # Any: DRF's ``source`` is a string
    payload = serializers.JSONField(
        help_text="The content of the event, exactly as its source wrote it."
    )
    engine_time = serializers.DateTimeField(allow_null=True)
    received_at = serializers.DateTimeField()


@extend_schema_serializer(many=False)  # the response of a `list` action, but not a list
class EventPageSerializer(serializers.Serializer[Any]):
    items = EventSerializer(many=True)
    last_seq = serializers.IntegerField()
    epoch = serializers.IntegerField()
    from_seq = serializers.IntegerField(
        required=False,
        help_text="Only with `shown`: the page covers the log from this seq on, even if it contains no such event.",
    )
    through_seq = serializers.IntegerField(
        required=False,
        help_text="Only with `shown`: the page covers the log up to this seq. Continue with `after=<through_seq>`.",
    )


class EventQuery(serializers.Serializer[Any]):
    """The query string that selects a page: the events after the seq ``after``, or the last ones before ``before``."""

    after = serializers.IntegerField(required=False, min_value=0, max_value=2**62)
    before = serializers.IntegerField(required=False, min_value=1, max_value=2**62)
    kind = serializers.CharField(required=False, max_length=80)
    limit = serializers.IntegerField(required=False, default=100, min_value=1, max_value=500)
    wait = serializers.IntegerField(
        required=False,
        default=0,
        min_value=0,
        max_value=30,
        help_text="The seconds to wait for a new event if there is no event after the seq `after`.",
    )
    shown = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Leave out the events that no page shows, such as the engine's statistics: a quarter of the bytes. "
        "The events left out count towards `limit`, and `from_seq` and `through_seq` name the part of the log "
        "that the page covers.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "after" in attrs and "before" in attrs:
            raise serializers.ValidationError("Send `after` or `before`, not both.")
        if attrs["wait"] and ("before" in attrs or "kind" in attrs):
            raise serializers.ValidationError("`wait` cannot be combined with `before` or `kind`.")
        if attrs["shown"] and (attrs["wait"] or "kind" in attrs):
            raise serializers.ValidationError("`shown` cannot be combined with `wait` or `kind`.")
        return attrs


class StreamQuery(serializers.Serializer[Any]):
    """The position after which a stream begins. The ``Last-Event-ID`` header overrides these parameters."""

    after = serializers.IntegerField(required=False, default=0, min_value=0, max_value=2**62)
    epoch = serializers.IntegerField(required=False, min_value=0, max_value=2**31 - 1)


class ConversationQuery(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=Conversation.Status.choices, required=False)
    execution_status = serializers.ChoiceField(
        choices=Conversation.ExecutionStatus.choices, required=False
    )
    q = serializers.CharField(
        required=False,
        max_length=200,
        help_text='The words to search for in titles and messages. `"a phrase"`, `or` and `-excluded` are supported.',
    )
    tag = TagField(required=False)
    trigger = serializers.ChoiceField(choices=Conversation.Trigger.choices, required=False)
    repository = serializers.CharField(
        required=False, max_length=200, help_text="The full name of the repository: owner/name."
    )
    archived = serializers.ChoiceField(
        choices=["true", "false", "any"], required=False, default="false"
    )


class FileQuery(serializers.Serializer[Any]):
    path = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=4_096, trim_whitespace=False
    )


class FolderQuery(FileQuery):
    limit = serializers.IntegerField(required=False, default=2_000, min_value=1, max_value=2_000)
    cursor = serializers.CharField(
        required=False, max_length=2_000, help_text="The `next` of the previous page."
    )


class FileEntrySerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    path = serializers.CharField(
        help_text="Bytes of the name that are not UTF-8 are U+FFFD here. The path opens the file anyway."
    )
    type = serializers.ChoiceField(choices=["file", "directory", "link"])
    size = serializers.IntegerField(help_text="The size in bytes.")
    modified_at = serializers.DateTimeField()


class FolderSerializer(serializers.Serializer[Any]):
    path = serializers.CharField(allow_blank=True)
    entries = FileEntrySerializer(many=True)
    total = serializers.IntegerField(help_text="The number of entries on all pages.")
    next = serializers.CharField(
        allow_null=True, help_text="The `cursor` of the next page; null on the last page."
    )


class WrittenFileSerializer(serializers.Serializer[Any]):
    path = serializers.CharField()
    size = serializers.IntegerField(help_text="The size in bytes.")


class UploadedSerializer(WrittenFileSerializer):
    """The first file, and all files of the upload in their order."""

    files = WrittenFileSerializer(many=True)


UPLOAD_ERRORS: dict[str, Any] = dict.fromkeys(
    ("required", "invalid", "no_name"),
    "Send at least one file as multipart/form-data, each with a file name.",
)


class UploadSerializer(serializers.Serializer[Any]):
    file = serializers.FileField(
        allow_empty_file=True,
        error_messages=UPLOAD_ERRORS,
        help_text="A file. Repeat the field to upload several files.",
    )
    path = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=4_096,
        trim_whitespace=False,
        help_text="The folder for the file, relative to the workspace. The default is the workspace itself.",
    )


class ArchiveQuery(serializers.Serializer[Any]):
    format = serializers.ChoiceField(choices=["zip", "tar.gz"], default="zip")
    dependencies = serializers.BooleanField(
        default=True,
        help_text="`false` leaves out installed dependencies and caches, such as `node_modules` and `.venv`.",
    )


class GitChangeSerializer(serializers.Serializer[Any]):
    status = serializers.CharField()
    path = serializers.CharField()


class GitChangesSerializer(serializers.Serializer[Any]):
    items = GitChangeSerializer(many=True)
    total = serializers.IntegerField(
        help_text="The number of changed files. `items` contains at most 20,000 of them."
    )


class GitDiffSerializer(serializers.Serializer[Any]):
    path = serializers.CharField()
    original = serializers.CharField(
        allow_null=True, allow_blank=True, help_text="Null if the file is new or binary."
    )
    modified = serializers.CharField(
        allow_null=True, allow_blank=True, help_text="Null if the file was deleted or is binary."
    )
    encoding = serializers.CharField(
        allow_null=True,
        help_text="The encoding of the newest version: `utf-8`, `utf-16`, `iso-8859-1`, …, or `binary`.",
    )
    original_encoding = serializers.CharField(allow_null=True)
    original_size = serializers.IntegerField(
        allow_null=True, help_text="The size in bytes; null if the file is new."
    )
    modified_size = serializers.IntegerField(
        allow_null=True, help_text="The size in bytes; null if the file was deleted."
    )
    diff = serializers.CharField(
        allow_blank=True, help_text="The difference in Git's format, in UTF-8."
    )


class StartTasksSerializer(serializers.Serializer[Any]):
    items = StartTaskSerializer(many=True)


class TrajectoryQuery(serializers.Serializer[Any]):
    format = serializers.ChoiceField(choices=list(FORMATS), default="json")
    through_seq = serializers.IntegerField(required=False, min_value=0, max_value=2**62)


class NewForkSerializer(serializers.Serializer[Any]):
    """The events to copy: all complete turns up to the seq ``through_seq``. The default is the newest event."""

    through_seq = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=2**62
    )
