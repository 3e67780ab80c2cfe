"""Authentication by a conversation key, for the routes that existing clients call with such a key."""

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.request import Request
from rest_framework.settings import api_settings

from accounts import limits
from accounts import services as accounts
from accounts.models import ApiKey, User
from accounts.sign_in.authentication import RememberedAuthentication, read_bearer_token_of
from conversations import services
from conversations.models import Conversation

HEADER = "X-Session-API-Key"


@dataclass(frozen=True, slots=True)
class ConversationKey:
    """The value of ``request.auth`` after authentication by a conversation key. The audit log shows ``prefix``."""

    conversation: Conversation
    prefix: str = "a conversation key"

    @property
    def pk(self) -> Any:
        return self.conversation.pk


class ConversationKeyAuthentication(RememberedAuthentication):
    """Authentication by a conversation key in ``X-Session-API-Key`` or ``Authorization: Bearer``.

    The request's user can see only the conversation of the key. ``X-Session-API-Key`` may also contain an API key,
    because existing clients send API keys in this header. An invalid key is ignored, so that a browser with an expired
    key is authenticated by its session cookie.
    """

    def check(self, request: HttpRequest) -> tuple[User, ConversationKey | ApiKey] | None:
        address = limits.client_address(request)
        token = request.headers.get(HEADER, "").strip()
        if token.startswith("oh_"):
            try:
                key = accounts.authenticate_api_key(token, address=address)
            except accounts.InvalidKey:
                return None
            return key.user, key
        holder = services.authenticate_conversation_key(
            token or read_bearer_token_of(request), address=address
        )
        if holder is None:
            return None
        user, conversation = holder
        return user, ConversationKey(conversation)

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


WITH_CONVERSATION_KEY: list[Any] = [
    ConversationKeyAuthentication,
    *api_settings.DEFAULT_AUTHENTICATION_CLASSES,
]
"""The ``authentication_classes`` of views that also accept conversation keys."""


class ConversationKeyScheme(OpenApiAuthenticationExtension):
    """The entry in the OpenAPI document that describes how to send a conversation key."""

    target_class = ConversationKeyAuthentication
    name = "conversationKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": HEADER,
            "description": "The `session_api_key` of a conversation's record: a key to that conversation only.",
        }
