"""The settings page of one conversation (tags, confirmation, public links), and the page of a public link."""

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
    """Return the replay of a public link up to its last event, or 404 if the link is not valid."""
    try:
        opened = services.open_share(token=token)
    except NoSuchShare as error:
        raise Http404 from error
    # A HEAD request returns no content, so it is not a view.
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
    """Show and change the tags, the confirmation settings and the public links of one conversation."""
    rows = Conversation.objects.visible_to(request.user)
    row = get_object_or_404(rows, pk=conversation_id)
    permissions.require(request.user, row.organization_id, "conversations.view")
    link, submitted = None, {}
    if request.method == "POST":
        intent = _parse_intent(request)
        permission, form_class, handler = INTENTS[intent]
        permissions.require(request.user, row.organization_id, permission)
        form = form_class(request.POST)
        link = _handle(request, row, form, handler)
        # A new link is shown only once, so its page is the response to the POST instead of a redirect.
        if link is None and not form.errors:
            return redirect("conversation-details", conversation_id=conversation_id)
        submitted = {intent: form}
    return _render_page(request, row, submitted, link)


def _parse_intent(request: AuthenticatedRequest) -> str:
    form = IntentForm(request.POST)
    if not form.is_valid():
        raise Http404
    intent: str = form.cleaned_data["intent"]
    return intent


def _handle(
    request: AuthenticatedRequest, row: Conversation, form: PageForm, handler: "Handler"
) -> str | None:
    """Call the handler if the form is valid; return the URL of a new public link, or None."""
    try:
        return handler(request, row, form.cleaned_data) if form.is_valid() else None
    except Problem as refusal:
        form.refuse(refusal)
        return None


def _render_page(
    request: AuthenticatedRequest,
    row: Conversation,
    submitted: dict[str, PageForm],
    link: str | None,
) -> HttpResponse:
    """Render the page with the values and errors of the submitted form (by its intent), and with a new link."""
    granted = permissions.permissions_in(request.user, row.organization_id)
    may_share = "conversations.share" in granted
    record = records.build_record(row)
    initial = {"policy": record["confirmation_policy"], "analyzer": record["security_analyzer"]}
    forms: dict[str, PageForm] = {
        "tags": TagsForm(initial={"tags": ", ".join(record["tags"])}),
        "confirmation": ConfirmationForm(initial=initial),
        "share": ShareForm(),
    }
    context: dict[str, Any] = {
        "record": record,
        "forms": forms if link else forms | submitted,
        "may_steer": "conversations.steer" in granted,
        "may_share": may_share,
        "is_creator": row.created_by_id == request.user.pk,
        "links_allowed": settings.PUBLIC_LINKS,
        "links": services.list_shares(conversation=row)[:50] if may_share else [],
        "now": timezone.now(),
        "new_link": link,
    }
    form = next(iter(submitted.values()), PageForm())
    return render_form(request, "conversations/details.html", form, context)


Data = dict[str, Any]
Handler = Callable[[AuthenticatedRequest, Conversation, Data], str | None]


def _set_tags(request: AuthenticatedRequest, row: Conversation, data: Data) -> None:
    services.set_tags(conversation_id=row.pk, tags=data["tags"])
    messages.success(request, "The tags were saved.")


def _set_confirmation(request: AuthenticatedRequest, row: Conversation, data: Data) -> None:
    services.set_confirmation(
        conversation_id=row.pk,
        confirmation_policy=data["policy"],
        security_analyzer=data["analyzer"],
    )
    messages.success(request, "The confirmation settings were saved.")


def _create_share(request: AuthenticatedRequest, row: Conversation, data: Data) -> str:
    _, token = services.create_share(
        user=request.user,
        conversation=row,
        expires_at=timezone.now() + timedelta(days=int(data["days"])),
    )
    return f"{settings.PUBLIC_URL}/shared/{token}"


def _revoke_share(request: AuthenticatedRequest, row: Conversation, data: Data) -> None:
    services.revoke_share(conversation=row, share_id=data["share"])
    messages.success(request, "The link was revoked.")


INTENTS: dict[str, tuple[str, type[PageForm], Handler]] = {
    "tags": ("conversations.steer", TagsForm, _set_tags),
    "confirmation": ("conversations.steer", ConfirmationForm, _set_confirmation),
    "share": ("conversations.share", ShareForm, _create_share),
    "revoke": ("conversations.share", RevokeForm, _revoke_share),
}
"""The forms of the page by intent: the required permission, the form, and the handler."""
