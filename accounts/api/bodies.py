"""Validation of request bodies, for views with different serializers for requests and responses."""

from typing import Any

from rest_framework.request import Request
from rest_framework.serializers import Serializer


def parse_body(kind: type[Serializer[Any]], request: Request) -> dict[str, Any]:
    """Return the validated body of a request. Raise DRF's ``ValidationError`` if it is invalid."""
    body = kind(data=request.data)
    body.is_valid(raise_exception=True)
    return dict(body.validated_data)
