"""``/api/v1/webhooks/{sandbox_id}/…``: the webhooks that an engine calls when its conversation changes.

A call only causes this server to read the engine's log. The body is ignored: a sandbox is not trusted, and an engine
that is killed loses its queued webhooks, so the log is complete and the webhooks are not.
"""

import hmac
from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import parsers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.permissions import PUBLIC
from compat.v1 import serializers
from compat.v1.app_conversations import TAGS
from conversations import services
from conversations.api.authentication import HEADER
from conversations.models import Conversation
from lib.problems import Problem
from lib.routes import NOTHING, RouteFacts

SANDBOX_ID = OpenApiParameter("sandbox_id", str, OpenApiParameter.PATH)
KEY = OpenApiParameter(HEADER, str, OpenApiParameter.HEADER, required=True)


class NotThisSandbox(Problem):
    """The request has no key, the key of another sandbox, or the id of another sandbox's conversation."""

    status = 401
    code = "not-this-sandbox"
    sentence = "Send the session key of this sandbox in the header X-Session-API-Key."


class AnyBodyParser(parsers.BaseParser):
    """A parser that accepts any body without reading it."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        return {}


def authenticate_sandbox(request: Request, sandbox_id: str) -> Conversation:
    """Return the conversation of a sandbox if the request has the sandbox's session key.

    Raise ``NotThisSandbox`` if the key is missing or wrong, or if there is no such sandbox. The exception does not say
    which.
    """
    try:
        pk = UUID(sandbox_id)
    except ValueError as error:
        raise NotThisSandbox from error
    rows = Conversation.objects.select_related("sandbox")
    row = rows.filter(sandbox_id=pk, deleted_at=None).first()
    key = request.headers.get(HEADER, "").encode(errors="surrogateescape")
    if row is None or row.sandbox is None or not key:
        raise NotThisSandbox
    if not hmac.compare_digest(key, row.sandbox.session_key().encode()):
        raise NotThisSandbox
    return row


RESPONSES = {
    200: serializers.V1SuccessSerializer,
    401: OpenApiResponse(description="The key is missing or belongs to another sandbox."),
}


class WebhookView(GenericAPIView[Any]):
    """The base class of webhooks. The sandbox's session key authenticates a call."""

    permission = PUBLIC
    authentication_classes: Any = ()
    parser_classes = [AnyBodyParser]  # noqa: RUF012 - DRF's own form
    serializer_class = serializers.V1SuccessSerializer


@RouteFacts(replaced_by=NOTHING)
class ConversationsWebhook(WebhookView):
    """The webhook for changes of a conversation."""

    @extend_schema(
        operation_id="v1_webhooks_conversations",
        tags=TAGS,
        parameters=[SANDBOX_ID, KEY],
        request=OpenApiTypes.OBJECT,
        responses=RESPONSES,
        auth=[],
    )
    def post(self, request: Request, sandbox_id: str) -> Response:
        """Notify the readers of the conversation that it may have changed. Safe to repeat."""
        services.nudge_followers(conversation_id=authenticate_sandbox(request, sandbox_id).pk)
        return Response({"success": True})


@RouteFacts(replaced_by=NOTHING)
class EventsWebhook(WebhookView):
    """The webhook for new events of a conversation."""

    @extend_schema(
        operation_id="v1_webhooks_events",
        tags=TAGS,
        parameters=[
            SANDBOX_ID,
            KEY,
            OpenApiParameter("conversation_id", str, OpenApiParameter.PATH),
        ],
        request=OpenApiTypes.OBJECT,
        responses=RESPONSES,
        auth=[],
    )
    def post(self, request: Request, sandbox_id: str, conversation_id: str) -> Response:
        """Notify the readers of the conversation that its log may have grown. Safe to repeat."""
        row = authenticate_sandbox(request, sandbox_id)
        if conversation_id.replace("-", "") != row.pk.hex:
            raise NotThisSandbox
        services.nudge_followers(conversation_id=row.pk)
        return Response({"success": True})
