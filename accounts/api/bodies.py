"""Validation of request bodies, for views with different serializers for requests and responses."""

from typing import Any

from rest_framework.request import Request
from rest_framework.serializers import Serializer

from lib import api


def parse_body(kind: type[Serializer[Any]], request: Request) -> dict[str, Any]:
    """Return the validated body of a request. Raise ``ValidationError`` if a field is invalid or unknown."""
    return api.parse_body(kind, request.data)
