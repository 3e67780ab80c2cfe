"""The services of billing, one module for each noun."""

from billing.services.admission import (
    BudgetReached,
    BudgetReserved,
    CallRefused,
    TooManyCalls,
    begin_call,
    estimate_tokens,
    extend_call,
)
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
    NoOrganizationModel,
    clear_model_access,
    get_lent_access,
    get_model_access,
    get_model_name,
    get_token_access,
    has_own_or_lent_model,
    keys_to_hide,
    save_model_access,
)
from billing.services.usage import CallTotals, get_usage, record_call, totals_of_calls

__all__ = [
    "DEMO_MODEL",
    "TOKEN_PREFIX",
    "BudgetReached",
    "BudgetReserved",
    "CallRefused",
    "CallTotals",
    "InvalidGatewayToken",
    "InvalidModelAccess",
    "NoOrganizationModel",
    "TooManyCalls",
    "authenticate_gateway_token",
    "begin_call",
    "clear_model_access",
    "estimate_tokens",
    "extend_call",
    "extend_gateway_tokens",
    "get_lent_access",
    "get_model_access",
    "get_model_name",
    "get_token_access",
    "get_usage",
    "has_own_or_lent_model",
    "issue_gateway_token",
    "keys_to_hide",
    "record_call",
    "revoke_gateway_tokens",
    "save_model_access",
    "totals_of_calls",
]
