"""``/api/v1/webhooks/{sandbox_id}/…``: a sandbox's doorbell. What it says is not believed, only that it says it."""

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
from compat.v1 import shapes
from compat.v1.app_conversations import TAGS
from conversations import services
from conversations.api.authentication import HEADER
from conversations.models import Conversation
from lib.problems import Problem
from lib.routes import NOTHING, RouteFacts

SANDBOX_ID = OpenApiParameter("sandbox_id", str, OpenApiParameter.PATH)
KEY = OpenApiParameter(HEADER, str, OpenApiParameter.HEADER, required=True)


class NotThisSandbox(Problem):
    """No key, another sandbox's, or a conversation that is not in it."""

    status = 401
    code = "not-this-sandbox"
    sentence = "This needs the session key of that sandbox."


class AnyBodyParser(parsers.BaseParser):
    """Reads nothing: the body is not used."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        return {}


def conversation_in(request: Request, sandbox_id: str) -> Conversation:
    """The conversation of the sandbox whose key the request carries; the same refusal for every other."""
    try:
        pk = UUID(sandbox_id)
    except ValueError as error:
        raise NotThisSandbox from error
    rows = Conversation.objects.select_related("sandbox")
    row = rows.filter(sandbox_id=pk, deleted_at=None).first()
    given = request.headers.get(HEADER, "").encode(errors="surrogateescape")
    if row is None or row.sandbox is None or not given:
        raise NotThisSandbox
    if not hmac.compare_digest(given, row.sandbox.session_key().encode()):
        raise NotThisSandbox
    return row


ANSWERS = {
    200: shapes.V1SuccessSerializer,
    401: OpenApiResponse(description="This is not the key of this sandbox."),
}


class Doorbell(GenericAPIView[Any]):
    """A call of a sandbox, which signs by its own key."""

    permission = PUBLIC
    authentication_classes: Any = ()
    parser_classes = [AnyBodyParser]  # noqa: RUF012 - DRF's own form
    serializer_class = shapes.V1SuccessSerializer


@RouteFacts(replaced_by=NOTHING)
class ConversationsWebhook(Doorbell):
    """Something about the conversation changed."""

    @extend_schema(
        operation_id="v1_webhooks_conversations",
        tags=TAGS,
        parameters=[SANDBOX_ID, KEY],
        request=OpenApiTypes.OBJECT,
        responses=ANSWERS,
        auth=[],
    )
    def post(self, request: Request, sandbox_id: str) -> Response:
        """Have it looked at. Safe to repeat."""
        services.nudge_followers(conversation_id=conversation_in(request, sandbox_id).pk)
        return Response({"success": True})


@RouteFacts(replaced_by=NOTHING)
class EventsWebhook(Doorbell):
    """Something happened in the conversation."""

    @extend_schema(
        operation_id="v1_webhooks_events",
        tags=TAGS,
        parameters=[
            SANDBOX_ID,
            KEY,
            OpenApiParameter("conversation_id", str, OpenApiParameter.PATH),
        ],
        request=OpenApiTypes.OBJECT,
        responses=ANSWERS,
        auth=[],
    )
    def post(self, request: Request, sandbox_id: str, conversation_id: str) -> Response:
        """Have the log looked at. Safe to repeat."""
        row = conversation_in(request, sandbox_id)
        if conversation_id.replace("-", "") != row.pk.hex:
            raise NotThisSandbox
        services.nudge_followers(conversation_id=row.pk)
        return Response({"success": True})
