"""Models of billing: model access, gateway tokens, model calls and usage per conversation.

Billing stores a conversation's UUID instead of a foreign key because the conversations app is above billing
in the import order.
"""

from billing.models.access import ModelAccess, ModelAccessQuerySet
from billing.models.tokens import GatewayToken
from billing.models.usage import ConversationUsage, ModelCall

__all__ = [
    "ConversationUsage",
    "GatewayToken",
    "ModelAccess",
    "ModelAccessQuerySet",
    "ModelCall",
]
