"""Who a request is by a conversation key: for the routes that existing clients call with one."""

from dataclasses import dataclass
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import authentication
from rest_framework.request import Request
from rest_framework.settings import api_settings

from accounts import limits
from accounts import services as accounts
from accounts.models import ApiKey, User
from accounts.sign_in.authentication import read_bearer_token
from conversations import services
from conversations.models import Conversation

HEADER = "X-Session-API-Key"


@dataclass(frozen=True, slots=True)
class ConversationKey:
    """What a request was let in by; the audit log tells it by its prefix."""

    conversation: Conversation
    prefix: str = "a conversation key"

    @property
    def pk(self) -> Any:
        return self.conversation.pk


class ConversationKeyAuthentication(authentication.BaseAuthentication):
    """``X-Session-API-Key`` (or ``Authorization: Bearer``) with a key to one conversation.

    The user can see that conversation and no other. The header takes an API key as well, as existing clients
    send it. A key that opens nothing is as good as none, so that a browser with an old one still has its cookie.
    """

    def authenticate(self, request: Request) -> tuple[User, ConversationKey | ApiKey] | None:
        address = limits.client_address(request._request)  # noqa: SLF001
        token = request.headers.get(HEADER, "").strip()
        if token.startswith("oh_"):
            try:
                key = accounts.authenticate_api_key(token, address=address)
            except accounts.InvalidKey:
                return None
            return key.user, key
        found = services.authenticate_conversation_key(
            token or read_bearer_token(request.headers), address=address
        )
        return (found[0], ConversationKey(found[1])) if found else None

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


WITH_CONVERSATION_KEY: list[Any] = [
    ConversationKeyAuthentication,
    *api_settings.DEFAULT_AUTHENTICATION_CLASSES,
]
"""``authentication_classes`` of views that also take conversation keys."""


class ConversationKeyScheme(OpenApiAuthenticationExtension):
    """How the OpenAPI document describes it."""

    target_class = ConversationKeyAuthentication
    name = "conversationKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": HEADER,
            "description": "The `session_api_key` of a conversation's record: a key to that one conversation.",
        }
