"""The verbs of billing: tokens for the model gateway, model access, and the record of what calls used."""

import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from accounts.models import Membership, Organization, User
from accounts.services import audit
from billing.llm.prices import MAX_PRICE_MICROS, Tokens, cost_micros
from billing.models import ConversationUsage, GatewayToken, ModelAccess, ModelCall
from lib import crypto, url_guard
from lib.problems import Problem

TOKEN_PURPOSE = "gateway-token"  # noqa: S105 - names what a digest is for
TOKEN_PREFIX = "ogt_"  # noqa: S105
DEMO_MODEL = "demo"
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")
_MASK = re.compile(r"\*{3,}|[•●]|…|\.{4,}")
_KEY = re.compile(r"[\x21-\x7e]+")


class InvalidGatewayToken(Problem):
    """A token that opens nothing: unknown, wrong, expired, revoked, or its owner may not act."""

    status = 401
    code = "invalid-gateway-token"
    sentence = "This gateway token is not valid: it may be mistyped, expired or revoked."


class InvalidModelAccess(Problem):
    """Model settings that cannot work; ``detail`` says which and why."""

    code = "invalid-model-access"


class NoModelAccess(Problem):
    """There is nothing to test: conversations use the demo model."""

    status = 409
    code = "no-model-access"
    sentence = "No model is set: conversations use the built-in demo model, which needs no test."


class ModelCheckFailed(Problem):
    """The model server did not answer a tiny call as it should; ``detail`` says what it did."""

    status = 502
    code = "model-check-failed"


# --- Gateway tokens -----------------------------------------------------------------


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
    is_right = crypto.matches(
        plain,
        purpose=TOKEN_PURPOSE,
        pepper_id=row.pepper_id if row else "",
        expected=row.digest if row else "",
    )
    if row is None or not is_right:
        raise InvalidGatewayToken
    if not Membership.objects.filter(
        user_id=row.user_id, organization_id=row.organization_id
    ).exists():
        raise InvalidGatewayToken
    return row


def _token_end() -> datetime:
    return timezone.now() + timedelta(seconds=settings.GATEWAY_TOKEN_SECONDS)


# --- What calls used ----------------------------------------------------------------


@transaction.atomic
def record_call(
    *,
    token: GatewayToken,
    access: ModelAccess | None,
    model: str,
    outcome: str,
    status: int,
    tokens: Tokens,
    seconds: float,
) -> ModelCall:
    """Write one call down, priced, and add it to its conversation's sums in the same transaction.

    Not safe to repeat: every call of this is one call of a model. ``access`` is None for the demo model.
    """
    call = ModelCall.objects.create(
        organization_id=token.organization_id,
        user_id=token.user_id,
        conversation_id=token.conversation_id,
        model=model[:200],
        upstream=access.base_url if access else DEMO_MODEL,
        outcome=outcome,
        status=status,
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        cached_tokens=tokens.cached,
        cost_micros=cost_micros(tokens, access),
        seconds=seconds,
    )
    # Insert-or-nothing, then add: two first calls at once must neither collide nor lose one of them.
    first = ConversationUsage(
        conversation_id=token.conversation_id, organization_id=token.organization_id
    )
    ConversationUsage.objects.bulk_create([first], ignore_conflicts=True)
    ConversationUsage.objects.filter(conversation_id=token.conversation_id).update(
        calls=F("calls") + 1,
        prompt_tokens=F("prompt_tokens") + call.prompt_tokens,
        completion_tokens=F("completion_tokens") + call.completion_tokens,
        cached_tokens=F("cached_tokens") + call.cached_tokens,
        cost_micros=F("cost_micros") + call.cost_micros,
    )
    return call


def usage_of(conversation_ids: Iterable[UUID]) -> dict[UUID, ConversationUsage]:
    """The sums of conversations by their id, in one query; one without calls has unsaved zeros."""
    wanted = list(conversation_ids)
    found = ConversationUsage.objects.in_bulk(wanted)
    return {pk: found.get(pk) or ConversationUsage(conversation_id=pk) for pk in wanted}


# --- Model access -------------------------------------------------------------------


def model_access_of(*, organization_id: UUID, user_id: UUID) -> ModelAccess | None:
    """The model server of a user's conversations in an organization; none means the demo model."""
    return ModelAccess.objects.filter(organization_id=organization_id, user_id=user_id).first()


def model_name_for(*, organization_id: UUID, user_id: UUID) -> str:
    """The name of the model that conversations use; ``demo`` where none is set."""
    access = model_access_of(organization_id=organization_id, user_id=user_id)
    return access.model if access else DEMO_MODEL


@transaction.atomic
def save_model_access(
    *,
    organization: Organization,
    user: User,
    base_url: str,
    model: str,
    api_key: str | None = None,
    prompt_micros_per_million: int = 0,
    completion_micros_per_million: int = 0,
    cached_micros_per_million: int | None = None,
) -> ModelAccess:
    """Set the model server of a user's conversations in an organization. Safe to repeat.

    ``api_key`` None keeps the stored key, an empty text removes it. Prices are micro-dollars a million
    tokens; cached tokens cost what prompt tokens do unless said otherwise. Raises ``InvalidModelAccess``,
    also when the address moves to another server while the stored key is kept: whoever may write settings
    must not thereby learn a key that can only be written.
    """
    base_url = _checked_base_url(base_url)
    model = _checked_model(model)
    prices = [prompt_micros_per_million, completion_micros_per_million]
    prices.append(prices[0] if cached_micros_per_million is None else cached_micros_per_million)
    if not all(0 <= price <= MAX_PRICE_MICROS for price in prices):
        raise InvalidModelAccess(
            f"A price is a whole number of micro-dollars a million tokens, up to {MAX_PRICE_MICROS}."
        )
    if api_key is not None:
        api_key = _checked_api_key(api_key)
    Organization.objects.select_for_update().get(pk=organization.pk)  # two first saves at once
    access = ModelAccess.objects.filter(organization=organization, user=user).first()
    access = access or ModelAccess(organization=organization, user=user)
    if api_key is None and access.has_api_key and _origin(access.base_url) != _origin(base_url):
        raise InvalidModelAccess(
            "The stored API key belongs to another server. Give the key for this one, or an empty key."
        )
    before = _shown(access) if not access._state.adding else {}  # noqa: SLF001
    access.base_url, access.model = base_url, model
    access.prompt_micros_per_million = prices[0]
    access.completion_micros_per_million = prices[1]
    access.cached_micros_per_million = prices[2]
    if api_key is not None:
        access.set_api_key(api_key)
    access.save()
    old, new = audit.changes(before, _shown(access))
    if api_key is not None:
        new["api_key"] = api_key
    if old or new:
        audit.record(
            action="model_access.saved",
            organization_id=organization.pk,
            subject=access,
            before=old,
            after=new,
        )
    return access


def _shown(access: ModelAccess) -> dict[str, Any]:
    return {
        "base_url": access.base_url,
        "model": access.model,
        "prompt_micros": access.prompt_micros_per_million,
        "completion_micros": access.completion_micros_per_million,
        "cached_micros": access.cached_micros_per_million,
    }


@transaction.atomic
def clear_model_access(*, organization_id: UUID, user_id: UUID) -> None:
    """Forget the model server and its key: conversations use the demo model. Safe to repeat."""
    found = ModelAccess.objects.filter(organization_id=organization_id, user_id=user_id)
    for access in found.select_for_update():
        audit.record(
            action="model_access.cleared",
            organization_id=organization_id,
            subject=access,
            before=_shown(access),
        )
        access.delete()


def check_model_access(access: ModelAccess | None) -> str:
    """Make a tiny real call (a few tokens, which may cost) and return a sentence about its answer.

    Raises ``NoModelAccess`` and ``ModelCheckFailed``.
    """
    from billing.llm import upstream

    if access is None:
        raise NoModelAccess
    try:
        return upstream.check(access)
    except upstream.UpstreamRefused as error:
        raise ModelCheckFailed(error.message) from error


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _checked_base_url(base_url: str) -> str:
    base_url = base_url.strip().rstrip("/").removesuffix("/chat/completions")
    try:
        url_guard.check_url(base_url)
    except url_guard.UnsafeUrl as error:
        raise InvalidModelAccess(f"base_url: {error}") from error
    if len(base_url) > 500:
        raise InvalidModelAccess("base_url: it is longer than 500 characters.")
    if urlsplit(base_url).query or urlsplit(base_url).fragment:
        raise InvalidModelAccess("base_url: it may not have a query or a fragment.")
    return base_url


def _checked_model(model: str) -> str:
    model = model.strip()
    if not model or len(model) > 200 or not model.isprintable():
        raise InvalidModelAccess("model: a name of 1 to 200 printable characters is needed.")
    return model


def _checked_api_key(api_key: str) -> str:
    api_key = api_key.strip()
    if _MASK.search(api_key):
        raise InvalidModelAccess(
            "api_key: this is a mask, not a key. Leave it out to keep the stored key."
        )
    if api_key and (len(api_key) > 2_000 or not _KEY.fullmatch(api_key)):
        raise InvalidModelAccess(
            "api_key: a key has up to 2000 visible ASCII characters and no spaces."
        )
    return api_key
