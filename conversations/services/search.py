"""Full-text search in the titles and messages of conversations, with PostgreSQL.

A periodic job indexes new texts. A search first indexes the most recently changed of the conversations that it
searches. Storing an event does not update the index, because a GIN index would make every insert slower (ADR 8).
"""

import re
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import orjson
from django.contrib.postgres.search import SearchHeadline, SearchQuery
from django.db import transaction
from django.db.models import F, Q, QuerySet

from conversations.log.story import extract_text
from conversations.models import Conversation, Event, SearchProgress, SearchText

TEXT_LENGTH = 20_000
BATCH = 500
FRESH_BEFORE_SEARCH = 30
"""The largest number of conversations that a search indexes itself. The periodic job indexes the others."""
ON, OFF = "\x02", "\x03"
"""Marks before and after a match. They cannot occur in indexed texts, from which control characters are removed."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff]")
# Conversations whose index lacks events or the current title.
_BEHIND = Q(search_progress=None) | ~Q(
    search_progress__indexed_seq=F("last_seq"), search_progress__indexed_title=F("title")
)


def search_conversations(rows: QuerySet[Conversation], words: str) -> QuerySet[Conversation]:
    """Return the conversations in ``rows`` whose title or messages match the words.

    The words are a web search query: ``"a phrase"``, ``or`` and ``-not`` work, and every text is valid. ``rows`` must
    contain only conversations that the user may read.
    """
    for pk in (
        rows.filter(_BEHIND)
        .order_by("-updated_at")
        .values_list("pk", flat=True)[:FRESH_BEFORE_SEARCH]
    ):
        index_conversation(conversation_id=pk)
    # The full-text index matches only whole words. Titles match on parts of words too.
    in_title = Q()
    for word in words.split():
        in_title &= Q(title__icontains=word)
    matches = SearchText.objects.filter(words=_query(words)).values("conversation_id")
    return rows.filter(Q(pk__in=matches) | in_title)


def find_snippets(conversations: Iterable[Conversation], words: str) -> dict[UUID, dict[str, Any]]:
    """Return a dict from conversation id to the first match, ``{"seq", "parts": [{"text", "is_hit"}]}``.

    A match in the title has the ``seq`` 0. The texts are not escaped for HTML.
    """
    query = _query(words)
    rows = (
        SearchText.objects.filter(conversation__in=list(conversations), words=query)
        .order_by("conversation_id", "seq")
        .distinct("conversation_id")
        .annotate(
            headline=SearchHeadline(
                "text",
                query,
                config="simple",
                start_sel=ON,
                stop_sel=OFF,
                max_words=24,
                min_words=8,
            )
        )
    )
    return {row.conversation_id: {"seq": row.seq, "parts": _parts(row.headline)} for row in rows}


def _query(words: str) -> SearchQuery:
    return SearchQuery(words, config="simple", search_type="websearch")


def _parts(headline: str) -> list[dict[str, Any]]:
    parts = []
    for index, piece in enumerate(re.split(f"[{ON}{OFF}]", headline)):
        # The marks alternate, so every second piece is a match.
        if piece:
            parts.append({"text": piece, "is_hit": index % 2 == 1})
    return parts


def index_texts(*, limit: int = BATCH) -> int:
    """Index the new titles and messages of up to ``limit`` conversations. Return how many were indexed."""
    rows = Conversation.objects.filter(_BEHIND, deleted_at=None).order_by("-updated_at")
    behind = list(rows.values_list("pk", flat=True)[:limit])
    for pk in behind:
        index_conversation(conversation_id=pk)
    return len(behind)


@transaction.atomic
def index_conversation(*, conversation_id: UUID) -> None:
    """Index the new messages and the current title of one conversation. Safe to repeat and to run concurrently."""
    conversation = Conversation.objects.filter(pk=conversation_id).first()
    if conversation is None:
        return
    progress, _ = SearchProgress.objects.get_or_create(
        conversation=conversation, defaults={"organization_id": conversation.organization_id}
    )
    rows = Event.objects.filter(
        conversation=conversation,
        seq__gt=progress.indexed_seq,
        seq__lte=conversation.last_seq,
    )
    # The agent's last message of a run may be the argument of its finish action.
    messages = rows.filter(
        Q(kind="UserMessage")
        | Q(kind="MessageEvent", source=Event.Source.AGENT)
        | Q(kind="ActionEvent", payload__contains='FinishAction"')
    )
    news = [
        _row(conversation, event.seq, text)
        for event in messages.order_by("seq").iterator(50)
        if (text := _message_text(event))
    ]
    # The job and a search may index one conversation at the same time. A text never changes, so ignore conflicts.
    SearchText.objects.bulk_create(news, ignore_conflicts=True, batch_size=100)
    SearchText.objects.bulk_create(
        [_row(conversation, 0, conversation.title)],
        update_conflicts=True,
        unique_fields=["conversation", "seq"],
        update_fields=["text"],
    )
    # The condition keeps a slower run from moving the progress back.
    SearchProgress.objects.filter(pk=progress.pk, indexed_seq__lte=conversation.last_seq).update(
        indexed_seq=conversation.last_seq, indexed_title=conversation.title
    )


def _row(conversation: Conversation, seq: int, text: str) -> SearchText:
    return SearchText(
        organization_id=conversation.organization_id,
        conversation=conversation,
        seq=seq,
        text=_CONTROL.sub(" ", text)[:TEXT_LENGTH],
    )


def _message_text(event: Event) -> str:
    try:
        payload = orjson.loads(event.payload)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(payload, dict):
        return ""
    if event.kind == "UserMessage":
        return str(payload.get("text") or "")
    if event.kind == "ActionEvent":
        action = payload.get("action")
        return str(action.get("message") or "") if isinstance(action, dict) else ""
    message = payload.get("llm_message")
    return extract_text(message.get("content")) if isinstance(message, dict) else ""
