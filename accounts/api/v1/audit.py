"""API endpoints for the audit log of an organization."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import AuditEntry
from accounts.permissions import require
from accounts.requests import ApiRequest
from lib.api import MomentField, parse_query


class AuditQuery(serializers.Serializer[Any]):
    """Filters of the audit log."""

    organization = serializers.UUIDField(required=False)
    action = serializers.RegexField(
        r"^[a-z_.]{1,60}$",
        required=False,
        help_text="An action such as `api_key.revoked`, or a prefix that ends with a dot, such as `api_key.`.",
    )
    actor = serializers.CharField(required=False, max_length=64, help_text="The id of the actor.")
    subject = serializers.CharField(
        required=False, max_length=64, help_text="The id of the subject."
    )
    request_id = serializers.CharField(required=False, max_length=64)
    since = MomentField(required=False)
    until = MomentField(required=False)


class AuditActorSerializer(serializers.Serializer[Any]):
    """The user or program that acted, with its name at that time."""

    kind = serializers.ChoiceField(AuditEntry.Kind.choices, source="actor_kind")
    id = serializers.CharField(source="actor_id")
    name = serializers.CharField(source="actor_name")


class AuditSubjectSerializer(serializers.Serializer[Any]):
    """The object of the action, with its name at that time. Titles of conversations are not shown."""

    kind = serializers.CharField(source="subject_kind")
    id = serializers.CharField(source="subject_id")
    name = serializers.CharField(source="shown.subject_name")


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    """An entry of the audit log: one action and the values that it changed."""

    organization = serializers.UUIDField(source="chain")
    actor = AuditActorSerializer(source="*")
    subject = AuditSubjectSerializer(source="*")
    before = serializers.DictField(source="shown.before")
    after = serializers.DictField(source="shown.after")

    class Meta:
        model = AuditEntry
        fields = (
            "id",
            "organization",
            "position",
            "created_at",
            "action",
            "actor",
            "subject",
            "before",
            "after",
            "reason",
            "request_id",
            "address",
            "hash",
        )


FILTERS = {
    "organization": "chain",
    "actor": "actor_id",
    "subject": "subject_id",
    "request_id": "request_id",
    "since": "created_at__gte",
    "until": "created_at__lt",
}
"""The condition on the database rows for each parameter of ``AuditQuery`` except ``action``."""


@extend_schema(tags=["audit"])
class AuditViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[AuditEntry]):
    """Entries of the audit logs that the caller can read, newest first."""

    queryset = AuditEntry.objects.none()
    serializer_class = AuditEntrySerializer
    permission = "audit.view"
    request: ApiRequest

    def get_queryset(self) -> QuerySet[AuditEntry]:
        return AuditEntry.objects.visible_to(self.request.user)

    @extend_schema(parameters=[AuditQuery])
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return a page of the audit log.

        With `organization`, respond 403 if the caller cannot read the log of that organization.
        """
        query = parse_query(AuditQuery, request, ignoring={"cursor", "limit"})
        bound = self.request.user.bound_organization_id
        if organization_id := query.get("organization") or bound:
            require(self.request.user, organization_id, self.permission)
        rows = self.get_queryset()
        rows = rows.filter(**{FILTERS[name]: query[name] for name in FILTERS if name in query})
        if action := query.get("action"):
            is_group = action.endswith(".")
            rows = rows.filter(**{"action__startswith" if is_group else "action": action})
        page = self.paginate_queryset(rows) or []
        return self.get_paginated_response(self.get_serializer(page, many=True).data)
