"""A conversation's own settings on a page (tags, when its agent asks, public links), and what links show."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from accounts import permissions
from accounts.models import User
from accounts.settings.choices import ConfirmationPolicy, SecurityAnalyzer
from conversations import services
from conversations.log import records, replay
from conversations.models import Conversation
from conversations.services.shares import NoSuchShare
from lib.problems import Problem

LIFETIMES = {"1": "a day", "7": "a week", "30": "a month", "365": "a year"}


class Unusable(Problem):
    """The form cannot be used as it is; ``detail`` says why."""

    status = 422
    code = "unusable-form"


@require_safe
def shared(request: HttpRequest, token: str) -> StreamingHttpResponse:
    """The replay of a public link, up to its pinned event. 404 once it has ended, whatever the reason."""
    try:
        opened = services.open_share(token=token)
    except NoSuchShare as error:
        raise Http404 from error
    if request.method == "GET":
        services.count_view(share=opened.share, address=request.META.get("REMOTE_ADDR", ""))
    pieces = services.export_trajectory(
        conversation=opened.conversation, format="html", through_seq=opened.last_seq
    )
    return StreamingHttpResponse(
        pieces,
        content_type="text/html; charset=utf-8",
        headers={
            "Content-Security-Policy": replay.CONTENT_POLICY,
            "X-Robots-Tag": "noindex, nofollow",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        },
    )


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def details(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """Tags, confirmation and public links of one conversation, by plain forms."""
    rows = Conversation.objects.visible_to(request.user)
    found = get_object_or_404(rows, pk=conversation_id)
    permissions.require(request.user, found.organization_id, "conversations.view")
    made = None
    if request.method == "POST":
        intent = INTENTS.get(request.POST.get("intent", ""))
        if intent is None:
            raise Http404
        permission, carry_out = intent
        permissions.require(request.user, found.organization_id, permission)
        try:
            made = carry_out(request, found)
        except Problem as refusal:
            messages.error(request, refusal.detail)
        if made is None:
            return redirect("conversation-details", conversation_id=conversation_id)
    granted = permissions.permissions_in(request.user, found.organization_id)
    may_share = "conversations.share" in granted
    context: dict[str, Any] = {
        "record": records.record_of(found),
        "may_steer": "conversations.steer" in granted,
        "may_share": may_share,
        "is_creator": found.created_by_id == request.user.pk,
        "links_allowed": settings.PUBLIC_LINKS,
        "links": services.links_of(conversation=found)[:50] if may_share else [],
        "now": timezone.now(),
        "lifetimes": LIFETIMES,
        "made": made,
    }
    return render(request, "conversations/details.html", context)


def _tags(request: HttpRequest, found: Conversation) -> None:
    tags = [part.strip() for part in request.POST.get("tags", "").split(",") if part.strip()]
    if len(tags) > 20 or any(len(tag) > 50 or not tag.isprintable() for tag in tags):
        raise Unusable("At most 20 tags of at most 50 characters, with commas between them.")
    services.set_tags(conversation_id=found.pk, tags=tags)
    messages.success(request, "The tags are kept.")


def _confirmation(request: HttpRequest, found: Conversation) -> None:
    policy, analyzer = request.POST.get("policy"), request.POST.get("analyzer")
    if policy not in ConfirmationPolicy.values or analyzer not in SecurityAnalyzer.values:
        raise Unusable("There is no such way to ask for confirmation.")
    services.set_confirmation(
        conversation_id=found.pk, confirmation_policy=policy, security_analyzer=analyzer
    )
    messages.success(request, "The agent is told.")


def _share(request: HttpRequest, found: Conversation) -> str:
    days = request.POST.get("days", "")
    if days not in LIFETIMES:
        raise Unusable("Choose how long the link should hold.")
    assert isinstance(request.user, User)  # ``login_required`` made sure of it
    _, token = services.create_share(
        user=request.user,
        conversation=found,
        expires_at=timezone.now() + timedelta(days=int(days)),
    )
    return f"{settings.PUBLIC_URL}/shared/{token}"


def _revoke(request: HttpRequest, found: Conversation) -> None:
    try:
        share_id = UUID(request.POST.get("share", ""))
    except ValueError as error:
        raise Http404 from error
    services.revoke_share(conversation=found, share_id=share_id)
    messages.success(request, "The link is revoked.")


INTENTS: dict[str, tuple[str, Callable[[HttpRequest, Conversation], str | None]]] = {
    "tags": ("conversations.steer", _tags),
    "confirmation": ("conversations.steer", _confirmation),
    "share": ("conversations.share", _share),
    "revoke": ("conversations.share", _revoke),
}
