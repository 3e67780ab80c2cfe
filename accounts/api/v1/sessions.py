"""API endpoints for the browser sessions in which the caller is signed in."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from accounts.models import UserSession
from accounts.requests import ApiRequest
from accounts.services import sessions


class SessionSerializer(serializers.ModelSerializer[UserSession]):
    """A browser session in which the caller is signed in."""

    is_current = serializers.SerializerMethodField()

    class Meta:
        model = UserSession
        fields = (
            "id",
            "user_agent",
            "address",
            "created_at",
            "last_seen_at",
            "expires_at",
            "is_current",
        )

    def get_is_current(self, session: UserSession) -> bool:
        return session.pk == current_session_id(self.context["request"])


class EndedSerializer(serializers.Serializer[Any]):
    """The number of sessions that the request ended."""

    ended = serializers.IntegerField()


def current_session_id(request: Any) -> UUID | None:
    """Return the id of the session of this request, or None for a request with an API key."""
    if request.auth is not None:
        return None
    return getattr(getattr(request._request, "user_session", None), "pk", None)  # noqa: SLF001


@extend_schema(tags=["auth"])
@extend_schema_view(
    list=extend_schema(description="Return the caller's live sessions, newest first."),
    retrieve=extend_schema(description="Return one of the caller's live sessions."),
    destroy=extend_schema(
        description="End one of the caller's sessions. Its browser is signed out."
    ),
)
class SessionViewSet(
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    viewsets.GenericViewSet[UserSession],
):
    """The caller's live sessions."""

    queryset = UserSession.objects.none()
    serializer_class = SessionSerializer
    lookup_value_converter = "uuid"
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "sessions.view",
        "retrieve": "sessions.view",
        "destroy": "sessions.edit",
        "sign_out_everywhere": "sessions.edit",
    }

    def get_queryset(self) -> QuerySet[UserSession]:
        return UserSession.objects.visible_to(self.request.user).live()

    def perform_destroy(self, instance: UserSession) -> None:
        sessions.end_session(session=instance, reason="revoked")

    @extend_schema(request=None, responses=EndedSerializer)
    @action(detail=False, methods=["post"], url_path="sign-out-everywhere", pagination_class=None)
    def sign_out_everywhere(self, request: ApiRequest) -> Response:
        """End every session of the caller except the session of this request. Safe to repeat."""
        ended = sessions.end_sessions(
            user=request.user,
            reason="signed out everywhere",
            keep=current_session_id(request),
        )
        return Response({"ended": ended})
