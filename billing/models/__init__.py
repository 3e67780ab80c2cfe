"""Rows about models and money: model access, gateway tokens, calls and their sums.

Billing stores a conversation's UUID and no foreign key: conversations are the app above.
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
