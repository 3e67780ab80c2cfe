"""Issue, extend, revoke and check tokens for the model gateway."""

import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from accounts.models import Membership
from billing.models import GatewayToken
from lib import crypto
from lib.problems import Problem

TOKEN_PURPOSE = "gateway-token"  # noqa: S105 - names what a digest is for
TOKEN_PREFIX = "ogt_"  # noqa: S105
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")


class InvalidGatewayToken(Problem):
    """A token that opens nothing: unknown, wrong, expired, revoked, or its owner may not act."""

    status = 401
    code = "invalid-gateway-token"
    sentence = "This gateway token is not valid: it may be mistyped, expired or revoked."


def issue_gateway_token(*, organization_id: UUID, user_id: UUID, conversation_id: UUID) -> str:
    """Make a token that opens the model gateway for one conversation; nobody can see it again.

    It lives ``GATEWAY_TOKEN_SECONDS`` unless extended. Each call makes another token.
    """
    token_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    pepper_id, digest = crypto.digest(f"{token_id}.{secret}", purpose=TOKEN_PURPOSE)
    GatewayToken.objects.create(
        organization_id=organization_id,
        user_id=user_id,
        conversation_id=conversation_id,
        token_id=token_id,
        digest=digest,
        pepper_id=pepper_id,
        expires_at=_token_end(),
    )
    return f"{TOKEN_PREFIX}{token_id}.{secret}"


def extend_gateway_tokens(*, conversation_ids: Iterable[UUID]) -> int:
    """Let the unrevoked tokens of conversations live ``GATEWAY_TOKEN_SECONDS`` from now; their number.

    Safe to repeat. An expired token that nobody revoked comes back: its sandbox slept, it did not end.
    """
    tokens = GatewayToken.objects.filter(
        conversation_id__in=list(conversation_ids), revoked_at=None
    )
    return tokens.update(expires_at=_token_end())


def revoke_gateway_tokens(*, conversation_id: UUID) -> int:
    """End the tokens of a conversation now; their number. Safe to repeat: the first time stays."""
    tokens = GatewayToken.objects.filter(conversation_id=conversation_id, revoked_at=None)
    return tokens.update(revoked_at=timezone.now())


def authenticate_gateway_token(token: str) -> GatewayToken:
    """The live token that a plain text belongs to, in two queries.

    Raises ``InvalidGatewayToken``, which does not say which of the reasons it was: besides the token's own
    end, its user may be inactive or no longer a member, or its organization suspended.
    """
    plain = token.removeprefix(TOKEN_PREFIX)
    token_id = plain.partition(".")[0]
    row = None
    if token.startswith(TOKEN_PREFIX) and _TOKEN_ID.fullmatch(token_id):
        live = GatewayToken.objects.filter(
            token_id=token_id,
            revoked_at=None,
            expires_at__gt=timezone.now(),
            user__is_active=True,
            organization__suspended_at=None,
        )
        row = live.first()
    row = crypto.verify_row(plain, row, purpose=TOKEN_PURPOSE)
    if row is None:
        raise InvalidGatewayToken
    if not Membership.objects.filter(
        user_id=row.user_id, organization_id=row.organization_id
    ).exists():
        raise InvalidGatewayToken
    return row


def _token_end() -> datetime:
    return timezone.now() + timedelta(seconds=settings.GATEWAY_TOKEN_SECONDS)
