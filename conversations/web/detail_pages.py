"""A conversation's own settings on a page (tags, when its agent asks, public links), and what links show."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from accounts import permissions
from accounts.requests import AuthenticatedRequest
from conversations import services
from conversations.log import records, replay
from conversations.models import Conversation
from conversations.services.shares import NoSuchShare
from conversations.web.forms import (
    ConfirmationForm,
    IntentForm,
    RevokeForm,
    ShareForm,
    TagsForm,
)
from lib.forms import PageForm, render_form
from lib.problems import Problem


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
def details(request: AuthenticatedRequest, conversation_id: UUID) -> HttpResponse:
    """Tags, confirmation and public links of one conversation, by plain forms."""
    rows = Conversation.objects.visible_to(request.user)
    found = get_object_or_404(rows, pk=conversation_id)
    permissions.require(request.user, found.organization_id, "conversations.view")
    made, sent = None, {}
    if request.method == "POST":
        intent = _intent(request)
        permission, form_class, carry_out = INTENTS[intent]
        permissions.require(request.user, found.organization_id, permission)
        form = form_class(request.POST)
        made = _carried_out(request, found, form, carry_out)
        if made is None and not form.errors:
            return redirect("conversation-details", conversation_id=conversation_id)
        sent = {intent: form}
    return _shown(request, found, sent, made)


def _intent(request: AuthenticatedRequest) -> str:
    form = IntentForm(request.POST)
    if not form.is_valid():
        raise Http404
    intent: str = form.cleaned_data["intent"]
    return intent


def _carried_out(
    request: AuthenticatedRequest, found: Conversation, form: PageForm, carry_out: "CarryOut"
) -> str | None:
    """Carry out what a form asks for; return the address of a link that it made."""
    try:
        return carry_out(request, found, form.cleaned_data) if form.is_valid() else None
    except Problem as refusal:
        form.refuse(refusal)
        return None


def _shown(
    request: AuthenticatedRequest,
    found: Conversation,
    sent: dict[str, PageForm],
    made: str | None,
) -> HttpResponse:
    """Render the page; ``sent`` is the form that was sent, by its intent, whose errors and values are shown."""
    granted = permissions.permissions_in(request.user, found.organization_id)
    may_share = "conversations.share" in granted
    record = records.record_of(found)
    initial = {"policy": record["confirmation_policy"], "analyzer": record["security_analyzer"]}
    unsent: dict[str, PageForm] = {
        "tags": TagsForm(initial={"tags": ", ".join(record["tags"])}),
        "confirmation": ConfirmationForm(initial=initial),
        "share": ShareForm(),
    }
    context: dict[str, Any] = {
        "record": record,
        "forms": unsent if made else unsent | sent,
        "may_steer": "conversations.steer" in granted,
        "may_share": may_share,
        "is_creator": found.created_by_id == request.user.pk,
        "links_allowed": settings.PUBLIC_LINKS,
        "links": services.links_of(conversation=found)[:50] if may_share else [],
        "now": timezone.now(),
        "made": made,
    }
    form = next(iter(sent.values()), PageForm())
    return render_form(request, "conversations/details.html", form, context)


Data = dict[str, Any]
CarryOut = Callable[[AuthenticatedRequest, Conversation, Data], str | None]


def _tags(request: AuthenticatedRequest, found: Conversation, data: Data) -> None:
    services.set_tags(conversation_id=found.pk, tags=data["tags"])
    messages.success(request, "The tags are kept.")


def _confirmation(request: AuthenticatedRequest, found: Conversation, data: Data) -> None:
    services.set_confirmation(
        conversation_id=found.pk,
        confirmation_policy=data["policy"],
        security_analyzer=data["analyzer"],
    )
    messages.success(request, "The agent is told.")


def _share(request: AuthenticatedRequest, found: Conversation, data: Data) -> str:
    _, token = services.create_share(
        user=request.user,
        conversation=found,
        expires_at=timezone.now() + timedelta(days=int(data["days"])),
    )
    return f"{settings.PUBLIC_URL}/shared/{token}"


def _revoke(request: AuthenticatedRequest, found: Conversation, data: Data) -> None:
    services.revoke_share(conversation=found, share_id=data["share"])
    messages.success(request, "The link is revoked.")


INTENTS: dict[str, tuple[str, type[PageForm], CarryOut]] = {
    "tags": ("conversations.steer", TagsForm, _tags),
    "confirmation": ("conversations.steer", ConfirmationForm, _confirmation),
    "share": ("conversations.share", ShareForm, _share),
    "revoke": ("conversations.share", RevokeForm, _revoke),
}
"""What the page's forms do: the permission that an intent needs, its form, and how it is done."""
