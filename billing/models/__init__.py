"""The models of billing: model access, gateway tokens, model calls and usage per conversation.

The rows store the UUID of a conversation instead of a foreign key, because billing may not depend on the conversations
app (import order).
"""

from billing.models.access import ModelAccess, ModelAccessQuerySet
from billing.models.running import RunningCall
from billing.models.servers import AllowedModelServer
from billing.models.tokens import GatewayToken
from billing.models.usage import (
    ERROR_MAX,
    SUMMED,
    ConversationUsage,
    ConversationUsageQuerySet,
    ModelCall,
    ModelCallQuerySet,
)

__all__ = [
    "ERROR_MAX",
    "SUMMED",
    "AllowedModelServer",
    "ConversationUsage",
    "ConversationUsageQuerySet",
    "GatewayToken",
    "ModelAccess",
    "ModelAccessQuerySet",
    "ModelCall",
    "ModelCallQuerySet",
    "RunningCall",
]
