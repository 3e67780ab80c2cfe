"""The API endpoint that lists the names of models."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.v1.settings import OptionsSerializer
from billing.api.v1.places import IN_ORGANIZATION, InOrganization
from billing.gateway import directory


@extend_schema(tags=["options"], parameters=[IN_ORGANIZATION])
class ModelsView(InOrganization):
    """The names of models that a client can offer.

    No viewset: the names are only suggestions from the code, not database rows. Other names are valid too.
    """

    permission = "model_access.view"
    serializer_class = OptionsSerializer

    @extend_schema(operation_id="options_models")
    def get(self, request: Request) -> Response:
        """Return the names of suggested models, including the caller's own model."""
        names = directory.list_models(self.access(self.organization()))
        return Response(self.get_serializer({"items": names}).data)
