"""OpenAPI parameters that several routes of Git hosts share."""

from uuid import UUID

from drf_spectacular.utils import OpenApiParameter

from integrations.api.v1.serializers import PROVIDERS

ORGANIZATION = OpenApiParameter(
    "organization", UUID, description="The organization to work in; your own by default."
)
PROVIDER = OpenApiParameter("provider", str, OpenApiParameter.PATH, enum=list(PROVIDERS))
