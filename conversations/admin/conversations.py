"""Read-only admin pages of conversations. Only services write."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from conversations.models import (
    Conversation,
    Event,
    Lease,
    LiveManager,
    OutgoingMessage,
    Sandbox,
    StartTask,
)
from lib.admin import ReadOnlyAdmin

PAYLOAD_CHARACTERS = 20_000


@admin.register(Conversation)
class ConversationAdmin(ReadOnlyAdmin):
    """Conversations, each with a link to its events."""

    list_display = (
        "title",
        "created_by",
        "status",
        "execution_status",
        "created_at",
        "last_seq",
        "id",
    )
    list_display_links = ("title", "id")
    list_select_related = ("created_by",)
    list_filter = ("status", "execution_status", "visibility")
    search_fields = ("=id", "=created_by__email", "title")
    ordering = ("-created_at",)
    readonly_fields = ("events",)

    @admin.display(description="events")
    def events(self, conversation: Conversation) -> str:
        url = reverse("admin:conversations_event_changelist")
        return format_html(
            '<a href="{}?conversation__id__exact={}">{} events</a>',
            url,
            conversation.pk,
            conversation.last_seq,
        )


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """Events, newest first: by ``seq`` if the list is filtered by a conversation, otherwise by id.

    This is the largest table, so the list reads no payloads and sorts and filters only by indexed columns.
    """

    list_display = ("id", "conversation_id", "seq", "kind", "source", "received_at")
    list_display_links = ("id", "seq")
    sortable_by = ()
    fields = (
        "conversation",
        "seq",
        "event_id",
        "kind",
        "source",
        "engine_seq",
        "engine_time",
        "received_at",
        "payload_start",
    )

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return ("-seq",) if "conversation__id__exact" in request.GET else ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        return super().get_queryset(request).defer("payload")

    @admin.display(description=f"payload (first {PAYLOAD_CHARACTERS:,} characters)")
    def payload_start(self, event: Event) -> Any:
        start = Event.objects.filter(pk=event.pk).values_list(Left("payload", PAYLOAD_CHARACTERS))
        return start.get()[0]


@admin.register(OutgoingMessage)
class OutgoingMessageAdmin(ReadOnlyAdmin):
    """Messages to agents, with the state of their delivery."""

    list_display = (
        "id",
        "conversation_id",
        "seq",
        "status",
        "attempts",
        "created_at",
        "delivered_at",
    )
    list_filter = ("status",)
    ordering = ("-created_at",)


@admin.register(Sandbox)
class SandboxAdmin(ReadOnlyAdmin):
    """Sandboxes, with their desired and last observed states. Their keys are not shown."""

    list_display = ("id", "provider", "desired", "observed", "run", "created_at", "active_at")
    list_filter = ("provider", "desired", "observed")
    search_fields = ("=id", "=conversation__id")
    ordering = ("-created_at",)


@admin.register(StartTask)
class StartTaskAdmin(ReadOnlyAdmin):
    """Attempts to start a conversation's sandbox, each with its current phase and the reason for the attempt."""

    list_display = (
        "id",
        "conversation_id",
        "phase",
        "reason",
        "attempts",
        "created_at",
        "finished_at",
    )
    list_filter = ("phase",)
    ordering = ("-created_at",)


@admin.register(Lease)
class LeaseAdmin(ReadOnlyAdmin):
    """Leases. Each lease shows which manager follows a conversation."""

    list_display = ("conversation_id", "owner", "generation", "is_wanted", "following_run")
    list_filter = ("is_wanted",)
    search_fields = ("owner", "=conversation__id")
    ordering = ("-conversation_id",)


@admin.register(LiveManager)
class LiveManagerAdmin(ReadOnlyAdmin):
    """Live conversation managers: how many conversations each manager follows, and how many it could follow."""

    list_display = ("owner", "followed", "capacity", "started_at", "expires_at")
    ordering = ("owner",)
