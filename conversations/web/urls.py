"""URL patterns of the conversation pages."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from conversations.web import detail_pages, network, pages, sandbox_secrets


class ActionConverter(StringConverter):
    """A converter for the part of a URL that names an action on a conversation."""

    regex = "|".join(pages.ACTIONS)


register_converter(ActionConverter, "conversation_action")

urlpatterns = [
    path("", pages.home, name="home"),
    path("api/sandbox/secrets/<str:name>", sandbox_secrets.secret, name="sandbox-secret"),
    path("conversations/<uuid:conversation_id>", pages.conversation, name="conversation"),
    path(
        "conversations/<uuid:conversation_id>/details",
        detail_pages.details,
        name="conversation-details",
    ),
    path("settings/sandboxes", network.sandbox_settings, name="settings-sandboxes"),
    path("shared/<str:token>", detail_pages.shared, name="shared"),
    path(
        "conversations/<uuid:conversation_id>/<conversation_action:action>",
        pages.act,
        name="conversation-act",
    ),
]
