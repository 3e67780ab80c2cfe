"""A router for resources with exactly one row for each caller."""

from rest_framework.routers import DynamicRoute, Route, SimpleRouter


class SingletonRouter(SimpleRouter):
    """Route viewsets of resources that need no id in the URL, such as the caller's model access.

    The prefix itself is the URL of the resource and ``basename`` is its name. Actions with ``detail=True`` are
    below it.
    """

    routes = [  # noqa: RUF012 - DRF's routers declare their routes in a list
        Route(
            url="{prefix}{trailing_slash}",
            mapping={
                "get": "retrieve",
                "put": "update",
                "patch": "partial_update",
                "delete": "destroy",
            },
            name="{basename}",
            detail=True,
            initkwargs={},
        ),
        DynamicRoute(
            url="{prefix}/{url_path}{trailing_slash}",
            name="{basename}-{url_name}",
            detail=True,
            initkwargs={},
        ),
    ]
