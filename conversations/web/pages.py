"""The home page with its prompt and lists, and the page of one conversation.

All actions work with plain HTML forms. JavaScript only adds live updates; ``?plain=1`` shows a page without JavaScript.
"""

from collections.abc import Callable, Iterable
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
from accounts.roles import STOP
from billing import services as billing
from billing.gateway.demo import EXAMPLES
from conversations import services
from conversations.log import records
from conversations.log.story import StoryEntry, build_entry
from conversations.models import Conversation
from conversations.web.engine import build_engine
from conversations.web.forms import (
    AnswerForm,
    FeedbackForm,
    MessageForm,
    PromptForm,
    RenameForm,
    SearchForm,
)
from conversations.web.isolation import build_isolation
from lib.api import dumps
from lib.forms import PageForm, render_form
from lib.pages import MalformedCursor, page, parse_cursor
from lib.problems import Problem
from lib.routes import RouteFacts

PAGE_SIZE = 20
PLAIN_EVENTS = 500
"""The number of newest events that a plain page shows."""
FIRST_EVENTS = 300
"""The number of newest events that ``conversation.js`` loads first."""
SHOWN_EXAMPLES = 6
"""The number of example prompts on the home page. Links of the demo model lead to the others."""


# --- Home -----------------------------------------------------------------------


@RouteFacts(cost="spend")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def home(request: AuthenticatedRequest) -> HttpResponse:
    """Show the prompt and the lists of conversations, or start a conversation from the prompt."""
    if (
        request.GET.get("part") == "engine"
    ):  # `home.js` requests only the progress of the engine's installation
        return render(request, "conversations/_engine.html", build_engine(request.user))
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
        "examples": EXAMPLES[:SHOWN_EXAMPLES],
        "idempotency_key": uuid4(),
        "uses_demo": billing.get_model_access(
            organization_id=organization.pk, user_id=request.user.pk
        )
        is None,
        **build_engine(request.user),
    }
    # `home.js` requests only the lists, to refresh them.
    template = "conversations/home.html"
    if request.GET.get("part") == "lists" and not form.errors:
        template = "conversations/_lists.html"
    response = render_form(request, template, form, context)
    patch_vary_headers(response, ["Cookie"])
    return response


def _example(request: HttpRequest) -> str:
    """Return the example prompt that the URL names by its number, or an empty text. ``lang=zh`` asks for Chinese."""
    number = request.GET.get("example", "")
    if number not in map(str, range(len(EXAMPLES))):
        return ""
    prompt = EXAMPLES[int(number)].request
    return prompt.chinese if request.GET.get("lang") == "zh" else prompt.english


def _create(request: AuthenticatedRequest, form: PromptForm) -> Conversation | None:
    """Create a conversation from the prompt and return it, or None if the form has errors."""
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
    """Return the template context of the lists: waiting, busy and recent conversations, each newest first.

    Only the first page has the waiting and busy conversations. The recent conversations come in pages.
    """
    visible, narrowing = _narrow(request)
    words = narrowing.get("q", "")
    before = request.GET.get("before", "")
    waiting = Q(execution_status=Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION) & ~Q(
        status=Conversation.Status.FAILED
    )
    busy = Q(status=Conversation.Status.STARTING) | Q(
        status=Conversation.Status.RUNNING,
        execution_status=Conversation.ExecutionStatus.RUNNING,
    )
    # With a filter there is only one list, which includes the waiting and busy conversations.
    rest = visible if narrowing else visible.exclude(waiting | busy)
    try:
        after = parse_cursor(before) if before else None
    except MalformedCursor as error:
        raise Http404 from error
    recent, more = page(rest, limit=PAGE_SIZE, after=after)
    newest_first = ("-created_at", "-pk")
    first_page = not before and not narrowing
    snippets = services.find_snippets(recent, words) if words else {}
    sections: dict[str, list[dict[str, Any]]] = {"waiting": [], "busy": []}
    if first_page:
        for name, condition in (("waiting", waiting), ("busy", busy)):
            rows = visible.filter(condition).order_by(*newest_first)[:PAGE_SIZE]
            sections[name] = _records_with_chips(rows)
    return sections | {
        "words": words,
        "tag": narrowing.get("tag"),
        "archived": "archived" in narrowing,
        "narrowed": urlencode(narrowing),
        "recent": [
            record | {"match": snippets.get(record["id"])} for record in _records_with_chips(recent)
        ],
        "more": more,
    }


def _narrow(request: AuthenticatedRequest) -> tuple[QuerySet[Conversation], dict[str, str]]:
    """Return the user's conversations filtered by ``q``, ``tag`` and ``archived``, and the filters as a dict."""
    rows = Conversation.objects.visible_to(request.user)
    narrowing = SearchForm(request.GET).narrowing()
    if "tag" in narrowing:
        rows = rows.filter(tags__contains=[narrowing["tag"]])
    if "q" in narrowing:
        return services.search_conversations(rows, narrowing["q"]), narrowing
    return rows.filter(archived_at__isnull="archived" not in narrowing), narrowing


def _records_with_chips(rows: Iterable[Conversation]) -> list[dict[str, Any]]:
    return [record | build_state_chip(record) for record in records.build_records(rows)]


def build_state_chip(record: dict[str, Any]) -> dict[str, str]:
    """Return ``{"chip", "tone"}``: the label of a conversation's state, and the CSS class of its colour.

    ``state.js`` has a copy of this function for live updates. Change both together.
    """
    status, execution = record["status"], record["execution_status"]
    waits = bool((record["start_task"] or {}).get("detail"))
    by_status = {
        "starting": ("Waiting for the engine" if waits else "Starting", "busy"),
        "failed": ("Failed", "bad"),
    }
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


def _get_conversation(request: AuthenticatedRequest, conversation_id: UUID) -> Conversation:
    """Return the conversation. Raise ``Http404`` if the user may not see it."""
    return get_object_or_404(Conversation.objects.visible_to(request.user), pk=conversation_id)


@login_required
@never_cache
@require_safe
def conversation(request: AuthenticatedRequest, conversation_id: UUID) -> HttpResponse:
    """Show the live page of one conversation, or its plain page with ``?plain=1``."""
    conversation = _get_conversation(request, conversation_id)
    context = _build_context(request, conversation)
    if request.GET.get("plain"):
        return _render_plain(request, conversation, context)
    return render(request, "conversations/conversation.html", context)


def _render_plain(
    request: AuthenticatedRequest,
    conversation: Conversation,
    context: dict[str, Any],
    failed: tuple[str, PageForm] | None = None,
) -> HttpResponse:
    """Render the plain page. ``failed`` is the name of a submitted form and the form, with its values and errors."""
    forms: dict[str, PageForm] = {"message": MessageForm(), "answer": AnswerForm()}
    if failed:
        forms |= dict([failed])
    context |= {"forms": forms, "story": build_plain_story(conversation)}
    main_form = failed[1] if failed else PageForm()
    return render_form(request, "conversations/plain.html", main_form, context)


def _build_context(request: AuthenticatedRequest, conversation: Conversation) -> dict[str, Any]:
    """Return the template context of both pages. Raise ``Problem`` if the user may not read the conversation."""
    record = records.build_record(conversation)
    granted = permissions.permissions_on(request.user, conversation)
    # Some roles see that a shared conversation exists but may not read it.
    permissions.require(request.user, conversation.organization_id, "conversations.view")
    # The agent of an external run cannot be steered from here, and its files are elsewhere.
    if conversation.is_external:
        granted -= {"conversations.steer", "files.view", "files.edit", STOP}
    return {
        "conversation": conversation,
        "record": record | build_state_chip(record),
        "message_id": uuid4(),
        "sandbox": build_isolation(conversation),
        "may_steer": "conversations.steer" in granted,
        "may_stop": STOP in granted,
        "may_delete": "conversations.delete" in granted,
        "may_create": "conversations.create" in granted,
        "page": _build_script_data(record, granted),
        "preloads": build_preloads(record),
    }


def _build_script_data(record: dict[str, Any], granted: frozenset[str]) -> dict[str, Any]:
    """Return the data with which ``conversation.js`` starts, as values that JSON can encode."""
    return {
        "record": orjson.loads(dumps(record)),
        "may": {
            "steer": "conversations.steer" in granted,
            "stop": STOP in granted,
            "delete": "conversations.delete" in granted,
            "files": "files.view" in granted,
            "edit_files": "files.edit" in granted,
        },
    }


def build_preloads(record: dict[str, Any]) -> list[str]:
    """Return the URLs that ``conversation.js`` loads first, which a browser can then load together with the scripts."""
    base = f"/api/v1/conversations/{record['id']}"
    before = record["last_seq"] + 1
    return [f"{base}/events?before={before}&limit={FIRST_EVENTS}&shown=true", f"{base}/feedback"]


def build_plain_story(conversation: Conversation) -> list[StoryEntry]:
    """Return the newest 500 events as readable text, for browsers without JavaScript and for printing."""
    newest = conversation.events.order_by("-seq")[:PLAIN_EVENTS]
    return [entry for event in reversed(newest) if (entry := build_entry(event))]


# --- Actions of the plain forms ----------------------------------------------------


@RouteFacts(cost="spend")
@login_required
@require_POST
def act(request: AuthenticatedRequest, conversation_id: UUID, action: str) -> HttpResponse:
    """Carry out an action on a conversation and redirect to its page.

    If a message or an answer is not accepted, the plain page shows its text and the errors. If another action fails,
    the page says why.
    """
    conversation = _get_conversation(request, conversation_id)
    permission, form_class, handler = ACTIONS[action]
    permissions.require_on(request.user, conversation, permission)
    form = form_class(request.POST)
    # Only a fork creates a conversation, whose page is shown next.
    new_id = None
    try:
        if form.is_valid():
            new_id = handler(request, conversation, form.cleaned_data)
    except Problem as refusal:
        form.refuse(refusal)
    if form.errors and action in WRITTEN:
        context = _build_context(request, conversation)
        return _render_plain(request, conversation, context, (action, form))
    for sentence in form.sentences:
        messages.error(request, sentence)
    if action in REMOVED and not form.errors:
        messages.success(request, f"“{conversation.title}” {REMOVED[action]}.")
        return redirect("home")
    return redirect("conversation", conversation_id=new_id or conversation_id)


Data = dict[str, Any]
Handler = Callable[[AuthenticatedRequest, Conversation, Data], UUID | None]
"""Handles a valid form and returns the id of a new conversation, or None."""
WRITTEN = {"message", "answer"}
"""Actions with a text that a person wrote, which must not be lost."""
REMOVED = {"delete": "was deleted", "archive": "was moved to the archive"}
"""Actions that remove a conversation from the home page. The value is the end of the success message."""


def _post_message(request: AuthenticatedRequest, conversation: Conversation, data: Data) -> None:
    message_id = data["message_id"] or uuid4()
    services.post_message(
        conversation_id=conversation.pk,
        text=data["text"],
        message_id=str(message_id),
        by=request.user,
    )


def _answer(request: AuthenticatedRequest, conversation: Conversation, data: Data) -> None:
    services.answer_confirmation(
        conversation_id=conversation.pk,
        accept=data["accept"] == "yes",
        reason=data["reason"],
        asked_seq=data["asked_seq"],
        by=request.user,
    )


def _rename(_request: AuthenticatedRequest, conversation: Conversation, data: Data) -> None:
    services.rename(conversation_id=conversation.pk, title=data["title"])


def _fork(request: AuthenticatedRequest, conversation: Conversation, _data: Data) -> UUID:
    permissions.require(request.user, conversation.organization_id, "conversations.create")
    fork = services.fork_conversation(user=request.user, conversation=conversation)
    return fork.pk


def _archive(_request: AuthenticatedRequest, conversation: Conversation, _data: Data) -> None:
    services.set_archived(conversation_id=conversation.pk, archived=True)


def _unarchive(_request: AuthenticatedRequest, conversation: Conversation, _data: Data) -> None:
    services.set_archived(conversation_id=conversation.pk, archived=False)


def _stop(request: AuthenticatedRequest, conversation: Conversation, _data: Data) -> None:
    services.interrupt(conversation_id=conversation.pk, by=request.user)


def _resume(request: AuthenticatedRequest, conversation: Conversation, _data: Data) -> None:
    services.resume(conversation_id=conversation.pk, by=request.user)


def _delete(_request: AuthenticatedRequest, conversation: Conversation, _data: Data) -> None:
    services.delete_conversation(conversation_id=conversation.pk)


def _save_feedback(request: AuthenticatedRequest, conversation: Conversation, data: Data) -> None:
    services.save_feedback(
        user=request.user,
        conversation=conversation,
        seq=data["seq"],
        rating=5 if data["good"] == "yes" else 1,
    )
    messages.success(request, "Thanks for your feedback.")


ACTIONS: dict[str, tuple[str, type[PageForm], Handler]] = {
    "message": ("conversations.steer", MessageForm, _post_message),
    "stop": (STOP, PageForm, _stop),
    "resume": ("conversations.steer", PageForm, _resume),
    "answer": ("conversations.steer", AnswerForm, _answer),
    "rename": ("conversations.steer", RenameForm, _rename),
    "fork": ("conversations.create", PageForm, _fork),
    "archive": ("conversations.steer", PageForm, _archive),
    "unarchive": ("conversations.steer", PageForm, _unarchive),
    "feedback": ("conversations.view", FeedbackForm, _save_feedback),
    "delete": ("conversations.delete", PageForm, _delete),
}
"""By the name of an action: the required permission, the form class, and the handler."""
