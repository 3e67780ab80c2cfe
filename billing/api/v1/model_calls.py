"""API endpoints for the model calls that the model gateway has recorded."""

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, viewsets

from accounts.requests import ApiRequest
from billing.api.v1 import serializers
from billing.api.v1.places import usage_scope
from billing.models import ModelCall
from lib.api import parse_query

FILTERS = {
    "conversation": "conversation_id",
    "user": "user_id",
    "model": "model",
    "outcome": "outcome",
    "since": "created_at__gte",
    "until": "created_at__lt",
}
"""The condition on the database rows for each parameter of ``ModelCallQuery`` except ``organization``."""


@extend_schema(tags=["usage"])
@extend_schema_view(
    list=extend_schema(
        parameters=[serializers.ModelCallQuery],
        description="Return model calls in an organization, newest first. "
        "Members see their own calls. With the permission `usage.view_all`, they see the calls of all members.",
    ),
    retrieve=extend_schema(description="Return one model call."),
)
class ModelCallViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[ModelCall]
):
    """Calls through the model gateway. The gateway records them; the API only reads them."""

    request: ApiRequest
    queryset = ModelCall.objects.none()
    serializer_class = serializers.ModelCallSerializer
    lookup_value_converter = "uuid"
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "usage.view",
        "retrieve": "usage.view",
    }

    def get_queryset(self) -> QuerySet[ModelCall]:
        rows = ModelCall.objects.visible_to(self.request.user)
        if self.action != "list":
            return rows
        query = parse_query(serializers.ModelCallQuery, self.request, ignoring={"cursor", "limit"})
        scope = usage_scope(self.request, query.get("organization"))
        rows = rows.filter(organization=scope.organization)
        if not scope.sees_all:
            # ``visible_to`` implies this, but only a plain condition lets PostgreSQL use the index by user.
            rows = rows.filter(user_id=self.request.user.pk)
        return rows.filter(**{FILTERS[name]: query[name] for name in FILTERS if name in query})
