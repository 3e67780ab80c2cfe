"""Models of billing: model access, gateway tokens, model calls and usage per conversation.

Billing stores a conversation's UUID instead of a foreign key because the conversations app is above billing
in the import order.
"""

from billing.models.access import ModelAccess, ModelAccessQuerySet
from billing.models.tokens import GatewayToken
from billing.models.usage import (
    SUMMED,
    ConversationUsage,
    ConversationUsageQuerySet,
    ModelCall,
    ModelCallQuerySet,
)

__all__ = [
    "SUMMED",
    "ConversationUsage",
    "ConversationUsageQuerySet",
    "GatewayToken",
    "ModelAccess",
    "ModelAccessQuerySet",
    "ModelCall",
    "ModelCallQuerySet",
]
