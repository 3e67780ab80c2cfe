"""Read-only admin pages of conversations. Only services write.

Titles, messages and events are private: the lists do not show them, and the page of a row asks for a reason.
"""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from accounts.admin.reading import PrivateAdmin
from accounts.services.staff_reading import PrivateScope
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


class ConversationContentAdmin(PrivateAdmin):
    """Read-only pages of rows of a conversation. One reason opens everything in the same conversation."""

    def find_scope(self, row: Any) -> PrivateScope:
        conversation = row if isinstance(row, Conversation) else row.conversation
        return PrivateScope(
            kind="conversation",
            id=str(conversation.pk),
            organization_id=conversation.organization_id,
            subject=conversation,
        )


@admin.register(Conversation)
class ConversationAdmin(ConversationContentAdmin):
    """Conversations, each with a link to its events. The list shows no titles."""

    list_display = (
        "id",
        "created_by",
        "organization",
        "status",
        "execution_status",
        "created_at",
        "last_seq",
    )
    list_select_related = ("created_by", "organization")
    private_fields = (
        *("title", "status_detail", "repository", "tags", "pull_requests"),
        *("idempotency_key", "idempotency_digest"),
    )
    list_filter = ("status", "execution_status", "visibility")
    search_fields = ("=id", "=created_by__email", "=organization__id")
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
class EventAdmin(ConversationContentAdmin):
    """Events, newest first: by ``seq`` if the list is filtered by a conversation, otherwise by id.

    This is the largest table, so the list reads no payloads and sorts and filters only by indexed columns.
    """

    list_display = ("id", "conversation_id", "seq", "kind", "source", "received_at")
    list_display_links = ("id", "seq")
    private_fields = ("payload",)
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
class OutgoingMessageAdmin(ConversationContentAdmin):
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
    private_fields = ("text", "images", "error")
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
