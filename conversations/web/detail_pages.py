"""The settings page of one conversation (tags, confirmation, sharing, network, links), and that of a public link."""

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
    HostForm,
    IntentForm,
    RemoveRuleForm,
    RevokeForm,
    ShareForm,
    SharingForm,
    TagsForm,
)
from conversations.web.network import build_network
from lib.forms import PageForm, render_form
from lib.problems import Problem


@require_safe
def shared(request: HttpRequest, token: str) -> StreamingHttpResponse:
    """Return the replay of a conversation up to the last event of its public link, or 404 if the link is not valid."""
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
    """Show and change the tags, confirmation settings, sharing, host rules and public links of one conversation."""
    visible = Conversation.objects.visible_to(request.user)
    conversation = get_object_or_404(visible, pk=conversation_id)
    # `visible_to` is not enough: some roles see that a shared conversation exists but may not read it.
    permissions.require(request.user, conversation.organization_id, "conversations.view")
    if request.method != "POST":
        return _render_page(request, conversation)
    form_name = _parse_form_name(request)
    permission, form_class, handler = FORMS[form_name]
    permissions.require_on(request.user, conversation, permission)
    form = form_class(request.POST)
    new_link = None
    try:
        if form.is_valid():
            new_link = handler(request, conversation, form.cleaned_data)
    except Problem as refusal:
        form.refuse(refusal)
    if form.errors:
        return _render_page(request, conversation, failed_form=(form_name, form))
    # The server stores no link's token, so it can show a new link only in this response, without a redirect.
    if new_link is not None:
        return _render_page(request, conversation, new_link=new_link)
    return redirect("conversation-details", conversation_id=conversation_id)


def _parse_form_name(request: AuthenticatedRequest) -> str:
    """Return the name of the submitted form, which is a key of ``FORMS``. Raise ``Http404`` for any other name."""
    form = IntentForm(request.POST)
    if not form.is_valid():
        raise Http404
    name: str = form.cleaned_data["intent"]
    return name


def _render_page(
    request: AuthenticatedRequest,
    conversation: Conversation,
    *,
    failed_form: tuple[str, PageForm] | None = None,
    new_link: str | None = None,
) -> HttpResponse:
    """Render the page.

    ``failed_form`` is the name of a submitted form and the form, which the page shows with its values and errors.
    ``new_link`` is the URL of a public link that was just created.
    """
    granted = permissions.permissions_on(request.user, conversation)
    may_share = "conversations.share" in granted
    record = records.build_record(conversation)
    initial = {"policy": record["confirmation_policy"], "analyzer": record["security_analyzer"]}
    forms: dict[str, PageForm] = {
        "tags": TagsForm(initial={"tags": ", ".join(record["tags"])}),
        "confirmation": ConfirmationForm(initial=initial),
        "sharing": SharingForm(
            initial={"circle": _circle(conversation), "lends_personal": conversation.lends_personal}
        ),
        "share": ShareForm(),
        "host": HostForm(),
    }
    main_form = PageForm()
    if failed_form is not None:
        name, main_form = failed_form
        forms[name] = main_form
    context: dict[str, Any] = {
        "record": record,
        "forms": forms,
        "may_steer": "conversations.steer" in granted,
        "may_not_steer": "conversations.steer" not in granted,
        "may_create": "conversations.create" in granted,
        "may_share": may_share,
        "may_decide": "egress.edit" in granted,
        "network": None if conversation.is_external else build_network(conversation),
        "conversation": conversation,
        "reach": services.describe_reach(conversation=conversation),
        "is_creator": conversation.created_by_id == request.user.pk,
        "links_allowed": settings.PUBLIC_LINKS,
        "links": services.list_shares(conversation=conversation)[:50] if may_share else [],
        "now": timezone.now(),
        "new_link": new_link,
    }
    # `render_form` uses the errors of this form for the HTTP status of the page.
    return render_form(request, "conversations/details.html", main_form, context)


Data = dict[str, Any]
Handler = Callable[[AuthenticatedRequest, Conversation, Data], str | None]
"""Handles a valid form and returns the URL of a new public link, or None if it creates no link."""


def _set_tags(request: AuthenticatedRequest, conversation: Conversation, data: Data) -> None:
    services.set_tags(conversation_id=conversation.pk, tags=data["tags"])
    messages.success(request, "The tags were saved.")


def _set_confirmation(
    request: AuthenticatedRequest, conversation: Conversation, data: Data
) -> None:
    services.set_confirmation(
        conversation_id=conversation.pk,
        confirmation_policy=data["policy"],
        security_analyzer=data["analyzer"],
        by=request.user,
    )
    messages.success(request, "The confirmation settings were saved.")


def _circle(conversation: Conversation) -> str:
    """Return the value of the form's field for who has access."""
    if conversation.visibility == Conversation.Visibility.PRIVATE:
        return "private"
    return "steer" if conversation.others_may_steer else "read"


def _set_sharing(request: AuthenticatedRequest, conversation: Conversation, data: Data) -> None:
    circle = data["circle"]
    services.set_sharing(
        conversation_id=conversation.pk,
        by=request.user,
        visibility="private" if circle == "private" else "organization",
        others_may_steer=circle == "steer",
        lends_personal=data["lends_personal"],
    )
    messages.success(request, "The sharing was saved.")


def _create_share(request: AuthenticatedRequest, conversation: Conversation, data: Data) -> str:
    _, token = services.create_share(
        user=request.user,
        conversation=conversation,
        expires_at=timezone.now() + timedelta(days=int(data["days"])),
    )
    return f"{settings.PUBLIC_URL}/shared/{token}"


def _revoke_share(request: AuthenticatedRequest, conversation: Conversation, data: Data) -> None:
    services.revoke_share(conversation=conversation, share_id=data["share"])
    messages.success(request, "The link was revoked.")


def _decide_host(request: AuthenticatedRequest, conversation: Conversation, data: Data) -> None:
    rule = services.decide_host(
        conversation_id=conversation.pk,
        host=data["host"],
        allowed=data["answer"] == "allow",
        by=request.user,
    )
    word = "allowed" if rule.allowed else "refused"
    messages.success(request, f"{rule.host} is {word} for this conversation.")


def _remove_rule(request: AuthenticatedRequest, conversation: Conversation, data: Data) -> None:
    services.remove_host_rule(conversation_id=conversation.pk, host=data["host"])
    messages.success(request, "The rule was removed.")


FORMS: dict[str, tuple[str, type[PageForm], Handler]] = {
    "tags": ("conversations.steer", TagsForm, _set_tags),
    "confirmation": ("conversations.steer", ConfirmationForm, _set_confirmation),
    "sharing": ("conversations.view", SharingForm, _set_sharing),
    "share": ("conversations.share", ShareForm, _create_share),
    "revoke": ("conversations.share", RevokeForm, _revoke_share),
    "host": ("egress.edit", HostForm, _decide_host),
    "unrule": ("egress.edit", RemoveRuleForm, _remove_rule),
}
"""By the name of a form on the page: the required permission, the form class, and the handler."""
