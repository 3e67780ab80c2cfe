"""Issue, extend, revoke and authenticate tokens for the model gateway."""

import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from accounts.models import Membership
from billing.models import GatewayToken, RunningCall
from lib import crypto
from lib.problems import Problem

TOKEN_PURPOSE = "gateway-token"  # noqa: S105 - the purpose of a digest
TOKEN_PREFIX = "ogt_"  # noqa: S105
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")


class InvalidGatewayToken(Problem):
    """The gateway token is unknown, expired or revoked, or its user or organization no longer has access."""

    status = 401
    code = "invalid-gateway-token"
    sentence = "This gateway token is not valid. It may be mistyped, expired or revoked."


def issue_gateway_token(
    *,
    organization_id: UUID,
    user_id: UUID,
    conversation_id: UUID,
    is_lent_by_organization: bool = False,
) -> str:
    """Create a gateway token for one conversation; return the token's plain text, which is not stored.

    The token is valid for ``GATEWAY_TOKEN_SECONDS``; ``extend_gateway_tokens`` extends this time. With
    ``is_lent_by_organization``, the token uses the model and the secrets of the organization instead of the user's.
    Each call creates another token.
    """
    token_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    pepper_id, digest = crypto.digest(f"{token_id}.{secret}", purpose=TOKEN_PURPOSE)
    GatewayToken.objects.create(
        organization_id=organization_id,
        user_id=user_id,
        conversation_id=conversation_id,
        is_lent_by_organization=is_lent_by_organization,
        token_id=token_id,
        digest=digest,
        pepper_id=pepper_id,
        expires_at=_compute_expiry(),
    )
    return f"{TOKEN_PREFIX}{token_id}.{secret}"


def extend_gateway_tokens(*, conversation_ids: Iterable[UUID]) -> int:
    """Make the tokens of conversations expire ``GATEWAY_TOKEN_SECONDS`` from now; return how many were changed.

    Revoked tokens stay revoked. An expired token becomes valid again, because its sandbox was paused and not deleted.
    Safe to repeat.
    """
    tokens = GatewayToken.objects.filter(
        conversation_id__in=list(conversation_ids), revoked_at=None
    )
    return tokens.update(expires_at=_compute_expiry())


def revoke_gateway_tokens(*, conversation_id: UUID) -> int:
    """Revoke the tokens of a conversation; return how many were revoked. Safe to repeat.

    ``revoked_at`` keeps the time of the first call.
    """
    RunningCall.objects.filter(conversation_id=conversation_id).delete()
    tokens = GatewayToken.objects.filter(conversation_id=conversation_id, revoked_at=None)
    return tokens.update(revoked_at=timezone.now())


def authenticate_gateway_token(token: str) -> GatewayToken:
    """Return the gateway token whose plain text is ``token``, if it is valid. Runs two database queries.

    Raise ``InvalidGatewayToken`` if the token is unknown, expired or revoked, if its user is inactive or no longer a
    member, or if its organization is suspended. The exception does not say which.
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
    # Also called without a row, so that the response time does not reveal whether the id exists.
    row = crypto.verify_row(plain, row, purpose=TOKEN_PURPOSE)
    if row is None:
        raise InvalidGatewayToken
    if not Membership.objects.filter(
        user_id=row.user_id, organization_id=row.organization_id
    ).exists():
        raise InvalidGatewayToken
    return row


def _compute_expiry() -> datetime:
    return timezone.now() + timedelta(seconds=settings.GATEWAY_TOKEN_SECONDS)
