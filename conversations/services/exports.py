"""A conversation's log for taking away: JSON, Markdown, or one HTML file that replays it.

Read page by page and given piece by piece: a log of any length takes a page of memory.
"""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
from django.db import connection

from accounts.services import custom_secrets
from conversations.log import replay
from conversations.log.story import StoryEntry, entry_of
from conversations.models import Conversation, Event
from lib.redaction import Redactor

PAGE = 50
FORMATS = {
    "json": ("application/json", "json"),
    "markdown": ("text/markdown; charset=utf-8", "md"),
    "html": ("text/html; charset=utf-8", "html"),
}
"""Media type and suffix of each format."""
_FENCE = re.compile(r"`{3,}")


def redactor_of(conversation: Conversation) -> Redactor:
    """What takes secrets out of whatever of this conversation leaves its people.

    Its creator's own, and everything that has the shape of a well-known key.
    """
    return Redactor(
        custom_secrets.values_to_hide(
            user_id=conversation.created_by_id, organization_id=conversation.organization_id
        )
    )


def walk_log(*, conversation_id: UUID, through_seq: int, after: int = 0) -> Iterator[Event]:
    """The events behind ``after`` up to ``through_seq``, in order, read in pages.

    Streams run in threads that nobody tidies up: the connection is given back after every page.
    """
    place = after
    while True:
        rows = Event.objects.filter(conversation_id=conversation_id, seq__gt=place)
        page = list(rows.filter(seq__lte=through_seq).order_by("seq")[:PAGE])
        if not connection.in_atomic_block:
            connection.close()
        yield from page
        if len(page) < PAGE:
            return
        place = page[-1].seq


def export_trajectory(
    *,
    conversation: Conversation,
    format: str,  # noqa: A002  (the word of the API)
    through_seq: int | None = None,
) -> Iterator[bytes]:
    """The whole log, or up to ``through_seq``, with secrets taken out, as pieces of one file.

    ``format`` is json (everything, payloads included), markdown or html (what a reader wants to know).
    Safe to repeat; what is appended while it runs is left out.
    """
    last = conversation.last_seq if through_seq is None else through_seq
    redactor = redactor_of(conversation)
    writer = {"json": _json, "markdown": _markdown, "html": _html}[format]
    return (piece.encode("utf-8", "replace") for piece in writer(conversation, last, redactor))


def described(conversation: Conversation, redactor: Redactor) -> dict[str, Any]:
    """What an export or a public link tells of the conversation itself."""
    repository = conversation.repository
    return {
        "id": str(conversation.pk),
        "title": redactor.text(conversation.title),
        "model": conversation.model,
        "repository": repository.get("full_name") if repository else None,
        "created_at": conversation.created_at,
    }


def redacted_wire(event: Event, redactor: Redactor) -> dict[str, Any]:
    """``Event.to_wire`` with secrets taken out of the payload."""
    return event.to_wire() | {"payload": orjson.Fragment(redactor.json(event.payload))}


def _json(conversation: Conversation, last: int, redactor: Redactor) -> Iterator[str]:
    about = orjson.dumps(described(conversation, redactor)).decode()
    yield f'{{"conversation":{about},"through_seq":{last},"events":['
    before = ""
    for event in walk_log(conversation_id=conversation.pk, through_seq=last):
        yield before + orjson.dumps(redacted_wire(event, redactor)).decode()
        before = ","
    yield "]}"


def story_of(conversation: Conversation, last: int, redactor: Redactor) -> Iterator[StoryEntry]:
    """The events that say something to a reader, in words, with secrets taken out."""
    for event in walk_log(conversation_id=conversation.pk, through_seq=last):
        if entry := entry_of(event, redactor.json(event.payload)):
            yield entry


def _facts(conversation: Conversation) -> str:
    facts = [f"{conversation.created_at:%Y-%m-%d %H:%M} UTC", conversation.model]
    if conversation.repository:
        facts.append(str(conversation.repository.get("full_name", "")))
    return " · ".join(facts)


def _markdown(conversation: Conversation, last: int, redactor: Redactor) -> Iterator[str]:
    """Every text stands in a fence longer than any of its own, so that none of it is markup."""
    title = re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", redactor.text(conversation.title))
    yield f"# {' '.join(title.split())}\n\n{_facts(conversation)}\n"
    for entry in story_of(conversation, last, redactor):
        fence = "`" * max(3, 1 + max(map(len, _FENCE.findall(entry.text)), default=0))
        who = re.sub(r"[^\w .:-]", "", entry.who)
        risk = f", {entry.risk.lower()} risk" if entry.risk else ""
        yield f"\n## {entry.seq}. {who}{risk}\n\n{entry.at:%Y-%m-%d %H:%M:%S} UTC\n\n"
        yield f"{fence}text\n{entry.text}\n{fence}\n"


def _html(conversation: Conversation, last: int, redactor: Redactor) -> Iterator[str]:
    yield replay.head(title=redactor.text(conversation.title), facts=_facts(conversation))
    for entry in story_of(conversation, last, redactor):
        yield replay.article(entry)
    yield replay.tail()
