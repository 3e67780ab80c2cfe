"""The base class of viewsets for resources below an organization's URL."""

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
    """A viewset that is registered below ``organizations/<uuid:pk>/``.

    ``organization`` is the organization in the URL. Before each action, respond 404 if the caller is not a member of
    the organization, and 403 if the caller lacks the permission for the action.
    """

    request: ApiRequest
    organization: Organization
    lookup_value_converter = "uuid"

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        visible = Organization.objects.visible_to(request.user)
        # ``pk`` in the URL is the id of the organization. Subclasses set ``lookup_url_kwarg`` for their own id.
        self.organization = get_object_or_404(visible, pk=kwargs["pk"])
        # No role includes the empty name, so an action without a permission is refused.
        require(request.user, self.organization.pk, permission_of(self) or "")

    def check_object_permissions(self, request: Request, obj: Any) -> None:
        """Do nothing: ``initial`` has checked the permission, and querysets contain only rows of the organization."""
