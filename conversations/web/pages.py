"""The pages of conversations: home with its prompt box and lists, and one conversation's live story.

Everything works by plain forms; the scripts add what is live. ``?plain=1`` shows the story without scripts.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import orjson
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.cache import patch_vary_headers
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import permissions
from accounts.active import active_organization
from accounts.requests import AuthenticatedRequest
from billing import services as billing
from conversations import services
from conversations.log import records
from conversations.log.story import StoryEntry, entry_of
from conversations.models import Conversation
from conversations.web.forms import (
    AnswerForm,
    FeedbackForm,
    MessageForm,
    PromptForm,
    RenameForm,
    SearchForm,
)
from lib.api import dumps
from lib.forms import PageForm, render_form
from lib.pages import MalformedCursor, page, parse_cursor
from lib.problems import Problem
from lib.routes import RouteFacts

PAGE_SIZE = 20
PLAIN_EVENTS = 500
EXAMPLES = [
    (
        "Say hello",
        "Write a one-line Python program and run it.",
        'Write hello.py that prints "Hello from the sandbox" and run it.',
    ),
    (
        "Find primes",
        "Save a short program as a file, then run it.",
        (
            "Save this as primes.py and run it:\n\n```python\n"
            "primes = [n for n in range(2, 72) if all(n % d for d in range(2, n))]\n"
            'print(len(primes), "primes:", *primes)\n```'
        ),
    ),
    (
        "Take a note",
        "Keep a text in a Markdown file and read it back.",
        'Write notes.md that says "Three ideas to try next week" and show it.',
    ),
]
"""What to try first: a name, what it does, the prompt. The demo model carries all of them out."""


# --- Home -----------------------------------------------------------------------


@RouteFacts(cost="spend")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def home(request: AuthenticatedRequest) -> HttpResponse:
    """The prompt box, what needs an answer, what runs, and what was done before."""
    form = PromptForm(
        request.POST if request.method == "POST" else None, initial={"message": _example(request)}
    )
    if form.is_bound:
        try:
            if conversation := _create(request, form):
                return redirect("conversation", conversation_id=conversation.pk)
        except Problem as refusal:
            form.refuse(refusal)
    organization = active_organization(request)
    context = _lists(request) | {
        "examples": EXAMPLES,
        "idempotency_key": uuid4(),
        "uses_demo": billing.get_model_access(
            organization_id=organization.pk, user_id=request.user.pk
        )
        is None,
    }
    template = "conversations/home.html"
    if request.GET.get("part") == "lists" and not form.errors:
        template = "conversations/_lists.html"
    response = render_form(request, template, form, context)
    patch_vary_headers(response, ["Cookie"])
    return response


def _example(request: HttpRequest) -> str:
    number = request.GET.get("example", "")
    return EXAMPLES[int(number)][2] if number in {"0", "1", "2"} else ""


def _create(request: AuthenticatedRequest, form: PromptForm) -> Conversation | None:
    """Start a conversation; None for a form with errors."""
    organization = active_organization(request)
    permissions.require(request.user, organization.pk, "conversations.create")
    if not form.is_valid():
        return None
    return services.create_conversation(
        user=request.user,
        organization=organization,
        message=form.cleaned_data["message"],
        repository=form.cleaned_data["repository"],
        confirmation_policy=form.cleaned_data["policy"] or "never",
        idempotency_key=form.cleaned_data["idempotency_key"] or None,
    )


def _lists(request: AuthenticatedRequest) -> dict[str, Any]:
    """Conversations by what they want of their owner; the rest in pages, newest first."""
    visible, narrowing = _narrowed(request)
    words = narrowing.get("q", "")
    before = request.GET.get("before", "")
    waiting = Q(execution_status=Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION) & ~Q(
        status=Conversation.Status.FAILED
    )
    busy = Q(status=Conversation.Status.STARTING) | Q(
        status=Conversation.Status.RUNNING,
        execution_status=Conversation.ExecutionStatus.RUNNING,
    )
    # A narrowed list is one list, whatever the state of its conversations.
    rest = visible if narrowing else visible.exclude(waiting | busy)
    try:
        after = parse_cursor(before) if before else None
    except MalformedCursor as error:
        raise Http404 from error
    recent, more = page(rest, limit=PAGE_SIZE, after=after)
    newest_first = ("-created_at", "-pk")
    first_page = not before and not narrowing
    found = services.snippets_of(recent, words) if words else {}
    return {
        "words": words,
        "tag": narrowing.get("tag"),
        "archived": "archived" in narrowing,
        "narrowed": urlencode(narrowing),
        "waiting": _told(visible.filter(waiting).order_by(*newest_first)[:PAGE_SIZE], first_page),
        "busy": _told(visible.filter(busy).order_by(*newest_first)[:PAGE_SIZE], first_page),
        "recent": [row | {"match": found.get(row["id"])} for row in _told(recent)],
        "more": more,
    }


def _narrowed(request: AuthenticatedRequest) -> tuple[QuerySet[Conversation], dict[str, str]]:
    """The user's conversations, narrowed as the address says: ``q``, ``tag``, ``archived``."""
    rows = Conversation.objects.visible_to(request.user)
    narrowing = SearchForm(request.GET).narrowing()
    if "tag" in narrowing:
        rows = rows.filter(tags__contains=[narrowing["tag"]])
    if "q" in narrowing:
        return services.matching(rows.readable_by(request.user), narrowing["q"]), narrowing
    return rows.filter(archived_at__isnull="archived" not in narrowing), narrowing


def _told(rows: Any, wanted: bool = True) -> list[dict[str, Any]]:  # noqa: FBT001, FBT002
    return [dict(record, **chip(record)) for record in records.records_of(rows)] if wanted else []


def chip(record: dict[str, Any]) -> dict[str, str]:
    """The one word and colour by which people know a conversation's state; as ``state.js`` says it."""
    status, execution = record["status"], record["execution_status"]
    by_status = {"starting": ("Starting", "busy"), "failed": ("Failed", "bad")}
    by_execution = {
        "running": ("Running", "busy"),
        "waiting_for_confirmation": ("Waiting for you", "attention"),
        "finished": ("Finished", "good"),
        "error": ("Error", "bad"),
        "stuck": ("Stuck", "bad"),
        "paused": ("Stopped", "quiet"),
    }
    if status in by_status:
        label, tone = by_status[status]
    elif status in {"paused", "stopped"} and execution in {"running", "idle"}:
        label, tone = "Asleep", "quiet"
    else:
        label, tone = by_execution.get(execution, ("Ready", "quiet"))
    return {"chip": label, "tone": tone}


# --- One conversation -----------------------------------------------------------


def _conversation(request: AuthenticatedRequest, conversation_id: UUID) -> Conversation:
    """The conversation if it exists for this user; 404 otherwise."""
    return get_object_or_404(Conversation.objects.visible_to(request.user), pk=conversation_id)


@login_required
@never_cache
@require_safe
def conversation(request: AuthenticatedRequest, conversation_id: UUID) -> HttpResponse:
    """The live story of one conversation."""
    found = _conversation(request, conversation_id)
    record = records.record_of(found)
    granted = permissions.permissions_in(request.user, found.organization_id)
    permissions.require(request.user, found.organization_id, "conversations.view")
    if found.is_external:  # watched here, not steered
        granted -= {"conversations.steer", "files.view", "files.edit"}
    context: dict[str, Any] = {
        "conversation": found,
        "record": record | chip(record),
        "message_id": uuid4(),
        "may_steer": "conversations.steer" in granted,
        "may_delete": "conversations.delete" in granted,
        "may_create": "conversations.create" in granted,
        "page": _for_script(record, granted),
    }
    if request.GET.get("plain"):
        context["story"] = plain_story(found)
        return render(request, "conversations/plain.html", context)
    return render(request, "conversations/conversation.html", context)


def _for_script(record: dict[str, Any], granted: frozenset[str]) -> dict[str, Any]:
    """What ``conversation.js`` starts from, as plain JSON values."""
    return {
        "record": orjson.loads(dumps(record)),
        "may": {
            "steer": "conversations.steer" in granted,
            "delete": "conversations.delete" in granted,
            "files": "files.view" in granted,
            "edit_files": "files.edit" in granted,
        },
    }


def plain_story(found: Conversation) -> list[StoryEntry]:
    """The newest events as headings and texts, for browsers without scripts and for printing."""
    newest = found.events.order_by("-seq")[:PLAIN_EVENTS]
    return [entry for event in reversed(newest) if (entry := entry_of(event))]


# --- What a person does to a conversation, by plain forms --------------------------


@RouteFacts(cost="spend")
@login_required
@require_POST
def act(request: AuthenticatedRequest, conversation_id: UUID, action: str) -> HttpResponse:
    """One command to a conversation, then back to its page with the outcome in words."""
    found = _conversation(request, conversation_id)
    permission, form_class, carry_out = ACTIONS[action]
    permissions.require(request.user, found.organization_id, permission)
    form = form_class(request.POST)
    to = None
    try:
        if form.is_valid():
            to = carry_out(request, found, form.cleaned_data)
    except Problem as refusal:
        form.refuse(refusal)
    for sentence in form.sentences:
        messages.error(request, sentence)
    if action in GONE and not form.errors:
        messages.success(request, f"“{found.title}” {GONE[action]}.")
        return redirect("home")
    return redirect("conversation", conversation_id=to or conversation_id)


Data = dict[str, Any]
CarryOut = Callable[[AuthenticatedRequest, Conversation, Data], UUID | None]
GONE = {"delete": "is deleted", "archive": "is in the archive"}
"""Actions after which the list of home no longer has the conversation, in words."""


def _post_message(_request: AuthenticatedRequest, found: Conversation, data: Data) -> None:
    message_id = data["message_id"] or uuid4()
    services.post_message(conversation_id=found.pk, text=data["text"], message_id=str(message_id))


def _answer(_request: AuthenticatedRequest, found: Conversation, data: Data) -> None:
    services.answer_confirmation(
        conversation_id=found.pk,
        accept=data["accept"] == "yes",
        reason=data["reason"],
        asked_seq=data["asked_seq"],
    )


def _rename(_request: AuthenticatedRequest, found: Conversation, data: Data) -> None:
    services.rename(conversation_id=found.pk, title=data["title"])


def _fork(request: AuthenticatedRequest, found: Conversation, _data: Data) -> UUID:
    permissions.require(request.user, found.organization_id, "conversations.create")
    fork = services.fork_conversation(user=request.user, conversation=found)
    return fork.pk


def _archive(_request: AuthenticatedRequest, found: Conversation, _data: Data) -> None:
    services.set_archived(conversation_id=found.pk, archived=True)


def _unarchive(_request: AuthenticatedRequest, found: Conversation, _data: Data) -> None:
    services.set_archived(conversation_id=found.pk, archived=False)


def _stop(_request: AuthenticatedRequest, found: Conversation, _data: Data) -> None:
    services.interrupt(conversation_id=found.pk)


def _resume(_request: AuthenticatedRequest, found: Conversation, _data: Data) -> None:
    services.resume(conversation_id=found.pk)


def _delete(_request: AuthenticatedRequest, found: Conversation, _data: Data) -> None:
    services.delete_conversation(conversation_id=found.pk)


def _feedback(request: AuthenticatedRequest, found: Conversation, data: Data) -> None:
    services.give_feedback(
        user=request.user,
        conversation=found,
        seq=data["seq"],
        rating=5 if data["good"] == "yes" else 1,
    )
    messages.success(request, "Thank you, your word is kept.")


ACTIONS: dict[str, tuple[str, type[PageForm], CarryOut]] = {
    "message": ("conversations.steer", MessageForm, _post_message),
    "stop": ("conversations.steer", PageForm, _stop),
    "resume": ("conversations.steer", PageForm, _resume),
    "answer": ("conversations.steer", AnswerForm, _answer),
    "rename": ("conversations.steer", RenameForm, _rename),
    "fork": ("conversations.create", PageForm, _fork),
    "archive": ("conversations.steer", PageForm, _archive),
    "unarchive": ("conversations.steer", PageForm, _unarchive),
    "feedback": ("conversations.view", FeedbackForm, _feedback),
    "delete": ("conversations.delete", PageForm, _delete),
}
"""What the plain forms do: the permission that an action needs, its form, and how it is done."""
