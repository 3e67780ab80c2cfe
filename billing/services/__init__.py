"""What callers of billing use, by name; each noun has a module of its own."""

from billing.services.gateway_tokens import (
    TOKEN_PREFIX,
    InvalidGatewayToken,
    authenticate_gateway_token,
    extend_gateway_tokens,
    issue_gateway_token,
    revoke_gateway_tokens,
)
from billing.services.model_access import (
    DEMO_MODEL,
    InvalidModelAccess,
    clear_model_access,
    model_access_of,
    model_name_for,
    save_model_access,
)
from billing.services.usage import CallTotals, record_call, totals_of_calls, usage_of

__all__ = [
    "DEMO_MODEL",
    "TOKEN_PREFIX",
    "CallTotals",
    "InvalidGatewayToken",
    "InvalidModelAccess",
    "authenticate_gateway_token",
    "clear_model_access",
    "extend_gateway_tokens",
    "issue_gateway_token",
    "model_access_of",
    "model_name_for",
    "record_call",
    "revoke_gateway_tokens",
    "save_model_access",
    "totals_of_calls",
    "usage_of",
]
