"""API endpoints with which callers without an account read a conversation through a public link."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.permissions import PUBLIC
from conversations import services
from conversations.api.v1.serializers import EventSerializer
from lib.api import parse_query

PRIVATE_HEADERS = {
    "X-Robots-Tag": "noindex, nofollow",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers that keep public links out of search indexes, caches and ``Referer`` headers."""


class SharedSerializer(serializers.Serializer[Any]):
    """The record of a conversation as a public link shows it, without the events."""

    title = serializers.CharField()
    model = serializers.CharField()
    repository = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    last_seq = serializers.IntegerField(help_text="The seq of the last event that the link shows.")
    expires_at = serializers.DateTimeField()


class SharedEventQuery(serializers.Serializer[Any]):
    after = serializers.IntegerField(required=False, default=0, min_value=0, max_value=2**62)
    limit = serializers.IntegerField(required=False, default=100, min_value=1, max_value=500)


class SharedEventsSerializer(serializers.Serializer[Any]):
    items = EventSerializer(many=True)
    next = serializers.IntegerField(
        allow_null=True, help_text="The value of `after` for the next page; null on the last page."
    )
    last_seq = serializers.IntegerField()


class SharedViewSet(viewsets.ViewSet):
    """A conversation as a public link shows it."""

    permission = PUBLIC
    authentication_classes = ()

    @extend_schema(operation_id="shared", responses=SharedSerializer, auth=[])
    def retrieve(self, request: Request, token: str) -> Response:
        """Return a shared conversation's title, model and repository, and the seq of its last shared event."""
        link = services.open_share(token=token)
        services.count_view(share=link.share, address=request.META.get("REMOTE_ADDR", ""))
        return Response(services.build_shared_record(link), headers=PRIVATE_HEADERS)

    @extend_schema(
        operation_id="shared_events",
        parameters=[SharedEventQuery],
        responses=SharedEventsSerializer,
        auth=[],
    )
    @action(detail=True, methods=["get"])
    def events(self, request: Request, token: str) -> Response:
        """Return a page of the events after the seq ``after``, up to the last shared event, without secrets."""
        link = services.open_share(token=token)
        query = parse_query(SharedEventQuery, request)
        items = services.list_shared_events(opened=link, **query)
        has_more = len(items) == query["limit"]
        body = {
            "items": items,
            "next": items[-1]["seq"] if has_more else None,
            "last_seq": link.last_seq,
        }
        return Response(body, headers=PRIVATE_HEADERS)
