"""The OpenAPI parameters that the routes of Git hosts share."""

from uuid import UUID

from drf_spectacular.utils import OpenApiParameter

from integrations.api.v1.serializers import PROVIDERS

ORGANIZATION = OpenApiParameter(
    "organization",
    UUID,
    description="The id of the organization. Default: the active organization.",
)
PROVIDER = OpenApiParameter("provider", str, OpenApiParameter.PATH, enum=list(PROVIDERS))
