"""Exports of a conversation's log as JSON, Markdown, or an HTML file that replays the log.

Logs are read in pages and exports are streamed, so an export needs memory for only one page of events.
"""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
from django.db import connection

from conversations.log import replay
from conversations.log.story import StoryEntry, build_entry
from conversations.models import Conversation, Event
from conversations.services import redaction
from lib.plain import markdown_inline
from lib.redaction import Redactor

PAGE = 50
"""The number of events read at a time. A payload can have several megabytes."""
FORMATS = {
    "json": ("application/json", "json"),
    "markdown": ("text/markdown; charset=utf-8", "md"),
    "html": ("text/html; charset=utf-8", "html"),
}
"""The media type and the file extension of each format."""
_FENCE = re.compile(r"`{3,}")


def build_redactor(conversation: Conversation) -> Redactor:
    """Return a redactor that removes secrets from texts that outsiders may read, such as exports and public links.

    The redactor removes the secrets of the conversation's creator and organization, and any string that looks like a
    well-known type of key, such as a GitHub token.
    """
    return Redactor(
        redaction.values_to_hide(
            user_id=conversation.created_by_id, organization_id=conversation.organization_id
        )
    )


def walk_log(*, conversation_id: UUID, through_seq: int, after: int = 0) -> Iterator[Event]:
    """Yield the events after the seq ``after`` and up to ``through_seq``, in order. The database is read in pages."""
    last_seq = after
    while True:
        rows = Event.objects.filter(conversation_id=conversation_id, seq__gt=last_seq)
        page = list(rows.filter(seq__lte=through_seq).order_by("seq")[:PAGE])
        # Django does not close connections in the threads of streaming responses, so close it here.
        if not connection.in_atomic_block:
            connection.close()
        yield from page
        if len(page) < PAGE:
            return
        last_seq = page[-1].seq


def export_trajectory(
    *,
    conversation: Conversation,
    format: str,  # noqa: A002  (the API's parameter name)
    through_seq: int | None = None,
) -> Iterator[bytes]:
    """Return the chunks of a file with the log up to ``through_seq`` (default: the whole log), without secrets.

    ``format`` is ``json`` (all events with their payloads), ``markdown`` or ``html`` (readable texts only). Events
    that are appended during the export are left out.
    """
    last = conversation.last_seq if through_seq is None else through_seq
    redactor = build_redactor(conversation)
    # `replace`, because a log may contain lone surrogates, which UTF-8 cannot encode.
    writer = {"json": _json, "markdown": _markdown, "html": _html}[format]
    return (piece.encode("utf-8", "replace") for piece in writer(conversation, last, redactor))


def describe_conversation(conversation: Conversation, redactor: Redactor) -> dict[str, Any]:
    """Return the id, title, model, repository and creation time of a conversation, without secrets."""
    repository = _repository(conversation, redactor)
    return {
        "id": str(conversation.pk),
        "title": redactor.text(conversation.title),
        "model": redactor.text(conversation.model),
        "repository": repository or None,
        "created_at": conversation.created_at,
    }


def redact_event(event: Event, redactor: Redactor) -> dict[str, Any]:
    """Return the event in the form that REST and sockets send, with secrets removed from its payload."""
    return event.to_wire() | {"payload": orjson.Fragment(redactor.json(event.payload))}


def _json(conversation: Conversation, last: int, redactor: Redactor) -> Iterator[str]:
    about = orjson.dumps(describe_conversation(conversation, redactor)).decode()
    yield f'{{"conversation":{about},"through_seq":{last},"events":['
    separator = ""
    for event in walk_log(conversation_id=conversation.pk, through_seq=last):
        yield separator + orjson.dumps(redact_event(event, redactor)).decode()
        separator = ","
    yield "]}"


def walk_story(conversation: Conversation, last: int, redactor: Redactor) -> Iterator[StoryEntry]:
    """Yield the events up to and including the seq ``last`` as readable entries, without secrets."""
    for event in walk_log(conversation_id=conversation.pk, through_seq=last):
        if entry := build_entry(event, redactor.json(event.payload)):
            yield entry


def _repository(conversation: Conversation, redactor: Redactor) -> str:
    repository = conversation.repository or {}
    return redactor.text(str(repository.get("full_name") or ""))


def _facts(conversation: Conversation, redactor: Redactor) -> list[str]:
    """Return the creation time, the model and the repository, if there is one. The last two are not escaped."""
    facts = [redactor.text(conversation.model), _repository(conversation, redactor)]
    return [f"{conversation.created_at:%Y-%m-%d %H:%M} UTC", *filter(None, facts)]


def _markdown(conversation: Conversation, last: int, redactor: Redactor) -> Iterator[str]:
    created_at, *names = _facts(conversation, redactor)
    facts = " · ".join([created_at, *map(markdown_inline, names)])
    yield f"# {markdown_inline(redactor.text(conversation.title))}\n\n{facts}\n"
    for entry in walk_story(conversation, last, redactor):
        # A fence that is longer than any run of backticks in the text, so that no text is rendered as markup.
        fence = "`" * max(3, 1 + max(map(len, _FENCE.findall(entry.text)), default=0))
        author = ": ".join(map(markdown_inline, entry.author.split(": ", 1)))
        risk = f", {entry.risk.lower()} risk" if entry.risk else ""
        yield f"\n## {entry.seq}. {author}{risk}\n\n{entry.at:%Y-%m-%d %H:%M:%S} UTC\n\n"
        yield f"{fence}text\n{entry.text}\n{fence}\n"


def _html(conversation: Conversation, last: int, redactor: Redactor) -> Iterator[str]:
    yield replay.render_head(
        title=redactor.text(conversation.title), facts=" · ".join(_facts(conversation, redactor))
    )
    for entry in walk_story(conversation, last, redactor):
        yield replay.render_entry(entry)
    yield replay.render_tail()
