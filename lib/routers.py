"""Routers of the REST API: URLs without a trailing slash, path converters, and URL names chosen by viewsets."""

from typing import Any

from rest_framework.routers import DynamicRoute, Route, SimpleRouter


class Router(SimpleRouter):
    """A router for viewsets with a list and details.

    A viewset may set ``url_names = {"action": "name"}`` to replace the name that DRF derives from the basename.
    A prefix may contain converters, such as ``conversations/<uuid:pk>/shares``.
    """

    def __init__(self) -> None:
        super().__init__(trailing_slash=False, use_regex_path=False)

    def get_urls(self) -> list[Any]:
        patterns: list[Any] = super().get_urls()
        for pattern in patterns:
            view: Any = pattern.callback
            names: dict[str, str] = getattr(view.cls, "url_names", {})
            actions = view.actions.values()
            pattern.name = next((names[name] for name in actions if name in names), pattern.name)
        return patterns


class SingletonRouter(Router):
    """A router for a resource that exists exactly once per parent, such as the sandbox of a conversation.

    The prefix is the path of the resource, and the basename is the name of its URL pattern.
    """

    routes = [  # noqa: RUF012 - DRF's own declaration
        Route(
            url="{prefix}",
            mapping={
                "get": "retrieve",
                "post": "create",
                "put": "update",
                "patch": "partial_update",
                "delete": "destroy",
            },
            name="{basename}",
            detail=True,
            initkwargs={},
        ),
        DynamicRoute(
            url="{prefix}/{url_path}", name="{basename}-{url_name}", detail=True, initkwargs={}
        ),
    ]
