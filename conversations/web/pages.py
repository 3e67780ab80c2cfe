"""The pages of conversations: home with its prompt box and lists, and one conversation's live story.

Everything works by plain forms; the scripts add what is live. ``?plain=1`` shows the story without scripts.
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID, uuid4

import orjson
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.cache import patch_vary_headers
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import permissions
from accounts.active import active_organization
from billing import services as billing
from conversations import services
from conversations.log import records
from conversations.log.story import Told, tell
from conversations.models import Conversation
from lib.api import dumps
from lib.problems import Problem
from lib.routes import RouteFacts

PAGE_SIZE = 20
PLAIN_EVENTS = 500
MESSAGE_LENGTH = 200_000
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
HOSTS = {"github.com": "github", "gitlab.com": "gitlab", "bitbucket.org": "bitbucket"}
_FULL_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)+")


class IncompletePrompt(Problem):
    """The form on the home page cannot be used as it is; ``detail`` says why."""

    status = 422
    code = "incomplete-prompt"


# --- Home -----------------------------------------------------------------------


@RouteFacts(cost="spend")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def home(request: HttpRequest) -> HttpResponse:
    """The prompt box, what needs an answer, what runs, and what was done before."""
    context: dict[str, Any] = {"form": {"message": _example(request), "policy": "never"}}
    status = 200
    if request.method == "POST":
        try:
            conversation = _create(request)
        except Problem as refusal:
            context["error"], status = refusal.detail, refusal.status
            context["form"] = {
                name: request.POST.get(name, "") for name in ("message", "repository", "policy")
            }
        else:
            return redirect("conversation", conversation_id=conversation.pk)
    organization = active_organization(request)
    context |= _lists(request) | {
        "examples": EXAMPLES,
        "idempotency_key": uuid4(),
        "uses_demo": billing.model_access_of(
            organization_id=organization.pk, user_id=request.user.pk
        )
        is None,
    }
    template = "conversations/home.html"
    if request.GET.get("part") == "lists" and status == 200:
        template = "conversations/_lists.html"
    response = render(request, template, context, status=status)
    patch_vary_headers(response, ["Cookie"])
    return response


def _example(request: HttpRequest) -> str:
    number = request.GET.get("example", "")
    return EXAMPLES[int(number)][2] if number in {"0", "1", "2"} else ""


def _create(request: HttpRequest) -> Conversation:
    organization = active_organization(request)
    permissions.require(request.user, organization.pk, "conversations.create")
    message = request.POST.get("message", "").strip()
    if not message:
        raise IncompletePrompt("Say what the agent should do.")
    if len(message) > MESSAGE_LENGTH:
        raise IncompletePrompt(f"A message has at most {MESSAGE_LENGTH:,} characters.")
    policy = request.POST.get("policy", "never")
    if policy not in {"never", "always", "risky"}:
        raise IncompletePrompt("There is no such way to ask for confirmation.")
    return services.create_conversation(
        user=request.user,
        organization=organization,
        message=message,
        repository=repository_of(request.POST.get("repository", "")),
        confirmation_policy=policy,
        idempotency_key=request.POST.get("idempotency_key") or None,
    )


def repository_of(text: str) -> dict[str, str] | None:
    """The repository that a person named: ``owner/name``, ``owner/name@branch`` or its address.

    An empty text is none. Raises ``IncompletePrompt`` for what is neither.
    """
    text = text.strip()
    if not text:
        return None
    provider, name = "github", text
    if "://" in text:
        parts = urlsplit(text)
        provider = HOSTS.get((parts.hostname or "").removeprefix("www."), "")
        name = parts.path.strip("/")
    name, _, branch = name.partition("@")
    name = name.removesuffix(".git")
    if not provider or not _FULL_NAME.fullmatch(name):
        raise IncompletePrompt(
            "Name the repository as owner/name, owner/name@branch or by its address."
        )
    found = {"provider": provider, "full_name": name}
    return found | {"branch": branch} if branch else found


def _lists(request: HttpRequest) -> dict[str, Any]:
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
    rest = _before(visible.exclude(waiting | busy), visible, before)
    newest_first = ("-created_at", "-pk")
    recent = list(rest.order_by(*newest_first)[: PAGE_SIZE + 1])
    if narrowing:  # one list of what was asked for, whatever its state
        rest = _before(visible, visible, before)
        recent = list(rest.order_by(*newest_first)[: PAGE_SIZE + 1])
    first_page = not before and not narrowing
    found = services.snippets_of(recent[:PAGE_SIZE], words) if words else {}
    return {
        "words": words,
        "tag": narrowing.get("tag"),
        "archived": "archived" in narrowing,
        "narrowed": urlencode(narrowing),
        "waiting": _told(visible.filter(waiting).order_by(*newest_first)[:PAGE_SIZE], first_page),
        "busy": _told(visible.filter(busy).order_by(*newest_first)[:PAGE_SIZE], first_page),
        "recent": [row | {"match": found.get(row["id"])} for row in _told(recent[:PAGE_SIZE])],
        "more": recent[PAGE_SIZE - 1].pk if len(recent) > PAGE_SIZE else None,
    }


def _narrowed(request: HttpRequest) -> tuple[QuerySet[Conversation], dict[str, str]]:
    """The user's conversations, narrowed as the address says: ``q``, ``tag``, ``archived``."""
    rows = Conversation.objects.visible_to(request.user)
    asked = {
        name: request.GET.get(name, "").replace("\0", "").strip()[:200] for name in ("q", "tag")
    }
    narrowing = {name: value for name, value in asked.items() if value}
    if request.GET.get("archived") == "1":
        narrowing["archived"] = "1"
    if "tag" in narrowing:
        rows = rows.filter(tags__contains=[narrowing["tag"]])
    if "q" in narrowing:
        return services.matching(rows.readable_by(request.user), narrowing["q"]), narrowing
    return rows.filter(archived_at__isnull="archived" not in narrowing), narrowing


def _before(
    rows: QuerySet[Conversation], visible: QuerySet[Conversation], before: str
) -> QuerySet[Conversation]:
    if not before:
        return rows
    try:
        last = visible.filter(pk=before).first()
    except ValidationError as error:
        raise Http404 from error
    if last is None:
        raise Http404
    return rows.filter(
        Q(created_at__lt=last.created_at) | Q(created_at=last.created_at, pk__lt=last.pk)
    )


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


def _conversation(request: HttpRequest, conversation_id: UUID) -> Conversation:
    """The conversation if it exists for this user; 404 otherwise."""
    return get_object_or_404(Conversation.objects.visible_to(request.user), pk=conversation_id)


@login_required
@never_cache
@require_safe
def conversation(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
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


def plain_story(found: Conversation) -> list[Told]:
    """The newest events as headings and texts, for browsers without scripts and for printing."""
    newest = found.events.order_by("-seq")[:PLAIN_EVENTS]
    return [told for event in reversed(newest) if (told := tell(event))]


# --- What a person does to a conversation, by plain forms --------------------------


@RouteFacts(cost="spend")
@login_required
@require_POST
def act(request: HttpRequest, conversation_id: UUID, action: str) -> HttpResponse:
    """One command to a conversation, then back to its page with the outcome in words."""
    found = _conversation(request, conversation_id)
    permission, carry_out = ACTIONS[action]
    permissions.require(request.user, found.organization_id, permission)
    try:
        to = carry_out(request, found)
    except Problem as refusal:
        messages.error(request, refusal.detail)
        return redirect("conversation", conversation_id=conversation_id)
    if action == "delete":
        messages.success(request, f"“{found.title}” is deleted.")
        return redirect("home")
    if action == "archive":
        messages.success(request, f"“{found.title}” is in the archive.")
        return redirect("home")
    return redirect("conversation", conversation_id=to or conversation_id)


def _post_message(request: HttpRequest, found: Conversation) -> None:
    text = request.POST.get("text", "").strip()
    if not text:
        raise IncompletePrompt("Write something first.")
    if len(text) > MESSAGE_LENGTH:
        raise IncompletePrompt(f"A message has at most {MESSAGE_LENGTH:,} characters.")
    try:
        message_id = UUID(request.POST.get("message_id", ""))
    except ValueError:
        message_id = uuid4()
    services.post_message(
        conversation_id=found.pk,
        text=text,
        message_id=str(message_id),
    )


def _answer(request: HttpRequest, found: Conversation) -> None:
    asked_seq = request.POST.get("asked_seq", "")[:18]
    services.answer_confirmation(
        conversation_id=found.pk,
        accept=request.POST.get("accept") == "yes",
        reason=request.POST.get("reason", "").strip()[:2_000],
        asked_seq=int(asked_seq) if asked_seq.isascii() and asked_seq.isdigit() else None,
    )


def _rename(request: HttpRequest, found: Conversation) -> None:
    title = request.POST.get("title", "").strip()
    if not title or len(title) > 200:
        raise IncompletePrompt("A title has 1 to 200 characters.")
    services.rename(conversation_id=found.pk, title=title)


def _fork(request: HttpRequest, found: Conversation) -> UUID:
    permissions.require(request.user, found.organization_id, "conversations.create")
    fork = services.fork_conversation(user=request.user, conversation=found)
    return fork.pk


def _archive(_request: HttpRequest, found: Conversation) -> None:
    services.set_archived(conversation_id=found.pk, archived=True)


def _unarchive(_request: HttpRequest, found: Conversation) -> None:
    services.set_archived(conversation_id=found.pk, archived=False)


def _feedback(request: HttpRequest, found: Conversation) -> None:
    seq = request.POST.get("seq", "")[:18]
    if not (seq.isascii() and seq.isdigit()):
        raise IncompletePrompt("Say which event you mean.")
    services.give_feedback(
        user=request.user,
        conversation=found,
        seq=int(seq),
        rating=5 if request.POST.get("good") == "yes" else 1,
    )
    messages.success(request, "Thank you, your word is kept.")


ACTIONS: dict[str, tuple[str, Callable[[HttpRequest, Conversation], UUID | None]]] = {
    "message": ("conversations.steer", _post_message),
    "stop": (
        "conversations.steer",
        lambda _request, found: services.interrupt(conversation_id=found.pk),
    ),
    "resume": (
        "conversations.steer",
        lambda _request, found: services.resume(conversation_id=found.pk),
    ),
    "answer": ("conversations.steer", _answer),
    "rename": ("conversations.steer", _rename),
    "fork": ("conversations.create", _fork),
    "archive": ("conversations.steer", _archive),
    "unarchive": ("conversations.steer", _unarchive),
    "feedback": ("conversations.view", _feedback),
    "delete": (
        "conversations.delete",
        lambda _request, found: services.delete_conversation(conversation_id=found.pk),
    ),
}
