"""Base class of viewsets for the parts of an organization."""

from typing import Any, TypeVar

from django.db.models import Model
from rest_framework import viewsets
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request

from accounts.api.permissions import permission_of
from accounts.models import Organization
from accounts.permissions import require
from accounts.requests import ApiRequest

Row = TypeVar("Row", bound=Model)


class NestedViewSet(viewsets.GenericViewSet[Row]):
    """A viewset registered below ``organizations/<uuid:pk>/``.

    Actions run only if the caller is a member of the organization in the URL (404 otherwise) and holds the
    permission of the action there (403 otherwise). ``organization`` is that organization.
    """

    request: ApiRequest
    organization: Organization
    lookup_value_converter = "uuid"

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        visible = Organization.objects.visible_to(request.user)
        # The URL's ``pk`` is the organization's id; subclasses name their own id by ``lookup_url_kwarg``.
        self.organization = get_object_or_404(visible, pk=kwargs["pk"])
        require(request.user, self.organization.pk, permission_of(self) or "")

    def check_object_permissions(self, request: Request, obj: Any) -> None:
        """Do nothing: ``initial`` has checked the organization, and every queryset is narrowed to it."""
