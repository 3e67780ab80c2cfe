"""Set, read and clear the model server that a user's conversations use."""

import contextlib
import re
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from accounts.models import Organization, User
from accounts.services import audit
from billing.models import GatewayToken, ModelAccess
from billing.prices import MAX_PRICE_MICROS
from billing.services import model_servers
from lib import url_guard
from lib.crypto import Undecryptable
from lib.masks import is_mask
from lib.problems import Problem

DEMO_MODEL = "demo"
_KEY = re.compile(r"[\x21-\x7e]+")
_ENDPOINTS = re.compile(
    r"/chat/completions$|(?<=/v\d)/(?:chat|completions|responses|embeddings|models|messages)$",
    re.IGNORECASE,
)
"""Paths of endpoints that people paste with the URL."""


class InvalidModelAccess(Problem):
    """The model settings are not valid. ``detail`` names the field and the reason."""

    code = "invalid-model-access"


class NoOrganizationModel(Problem):
    """The run may use only the organization's model, and the organization has none."""

    status = 409
    code = "no-organization-model"
    sentence = (
        "Others may steer this conversation, or have steered it, so it uses only a model that the organization lends, "
        "and the organization lends none. An administrator can set one on the organization's page under Model. Or the "
        "creator of the conversation can agree under Sharing that it uses the creator's own model and secrets."
    )
    is_permanent = True
    """Whether a start that fails with this error is not tried again."""


def get_model_access(*, organization_id: UUID, user_id: UUID | None) -> ModelAccess | None:
    """Return the model access of a user in an organization; None means the demo model.

    Without a user, return the model access that the organization lends, or None.
    """
    rows = ModelAccess.objects.filter(organization_id=organization_id)
    return rows.filter(user_id=user_id).first() if user_id else rows.filter(user=None).first()


def has_own_or_lent_model(*, user_id: UUID) -> bool:
    """Return whether a user, or one of the user's organizations, has connected a model."""
    rows = ModelAccess.objects.filter(Q(user_id=user_id) | Q(user=None))
    return rows.filter(organization__memberships__user_id=user_id).exists()


def get_lent_access(*, organization_id: UUID, user_id: UUID) -> ModelAccess | None:
    """Return the model access that an organization lends to a conversation of a user; None means the demo model.

    Raise ``NoOrganizationModel`` if the organization has no model, unless the user has none either: then the demo model
    is what the conversation would use anyway.
    """
    lent = get_model_access(organization_id=organization_id, user_id=None)
    if lent is None and get_model_access(organization_id=organization_id, user_id=user_id):
        raise NoOrganizationModel
    return lent


def get_token_access(token: GatewayToken) -> ModelAccess | None:
    """Return the model access that a gateway token uses; None means the demo model. Raise ``NoOrganizationModel``."""
    place = {"organization_id": token.organization_id, "user_id": token.user_id}
    return get_lent_access(**place) if token.is_lent_by_organization else get_model_access(**place)


def keys_to_hide(*, organization_id: UUID, user_id: UUID) -> set[str]:
    """Return the keys of the model servers of a user and of the organization, without those that cannot be decrypted.

    A sandbox never gets them, but a model server may quote its key in an error. Runs one database query.
    """
    rows = ModelAccess.objects.filter(Q(user_id=user_id) | Q(user=None))
    keys = set()
    for access in rows.filter(organization_id=organization_id).only("pk", "sealed_api_key"):
        # The use of the key says that it cannot be decrypted.
        with contextlib.suppress(Undecryptable):
            keys.add(access.api_key())
    return keys - {""}


def get_model_name(*, organization_id: UUID, user_id: UUID) -> str:
    """Return the name of the model that a user's conversations use. Without model access, it is ``demo``."""
    access = get_model_access(organization_id=organization_id, user_id=user_id)
    return access.model if access else DEMO_MODEL


@transaction.atomic
def save_model_access(
    *,
    organization: Organization,
    user: User | None,
    base_url: str,
    model: str,
    api_key: str | None = None,
    prompt_micros_per_million: int = 0,
    completion_micros_per_million: int = 0,
    cached_micros_per_million: int | None = None,
) -> ModelAccess:
    """Set the model server of a user's conversations in an organization. Safe to repeat.

    Without a user, set the model server that the organization lends to conversations that several members steer.

    An ``api_key`` of None keeps the stored key, and an empty text removes the key. Prices are in micro-dollars per
    million tokens. If no price for cached tokens is given, they cost as much as prompt tokens. Raise
    ``InvalidModelAccess`` if an argument is not valid, also if the stored key would be kept although ``base_url``
    names another server than before, and if the server is on this machine and not open to the user
    (``model_servers.find_reach``).
    """
    base_url = _clean_base_url(base_url, user)
    model = _clean_model(model)
    prices = [prompt_micros_per_million, completion_micros_per_million]
    prices.append(prices[0] if cached_micros_per_million is None else cached_micros_per_million)
    if not all(0 <= price <= MAX_PRICE_MICROS for price in prices):
        raise InvalidModelAccess(
            "A price must be a whole number of micro-dollars per million tokens, "
            f"from 0 to {MAX_PRICE_MICROS}."
        )
    if api_key is not None:
        api_key = _clean_api_key(api_key)
    # Without the lock, two concurrent first requests would both insert a row.
    Organization.objects.select_for_update().get(pk=organization.pk)
    access = ModelAccess.objects.filter(organization=organization, user=user).first()
    access = access or ModelAccess(organization=organization, user=user)
    # Otherwise anyone who may edit the settings could send the stored key to another server and read it there.
    if api_key is None and access.has_api_key and _origin(access.base_url) != _origin(base_url):
        raise InvalidModelAccess(
            "The stored API key belongs to another server. Enter the API key of this server, "
            "or remove the stored key."
        )
    before = _describe(access) if not access._state.adding else {}  # noqa: SLF001
    access.base_url, access.model = base_url, model
    access.prompt_micros_per_million = prices[0]
    access.completion_micros_per_million = prices[1]
    access.cached_micros_per_million = prices[2]
    if api_key is not None:
        access.set_api_key(api_key)
    access.save()
    old, new = audit.changes(before, _describe(access))
    if api_key is not None:
        new["api_key"] = api_key
    if old or new:
        audit.record(
            action="model_access.saved",
            organization_id=organization.pk,
            subject=access,
            subject_name=_name_of(access),
            before=old,
            after=new,
        )
    return access


def _name_of(access: ModelAccess) -> str:
    return str(access) if access.user_id else f"{access} (the organization's)"


def _describe(access: ModelAccess) -> dict[str, Any]:
    return {
        "base_url": access.base_url,
        "model": access.model,
        "prompt_micros": access.prompt_micros_per_million,
        "completion_micros": access.completion_micros_per_million,
        "cached_micros": access.cached_micros_per_million,
    }


@transaction.atomic
def clear_model_access(*, organization_id: UUID, user_id: UUID | None) -> None:
    """Delete the model access with its API key. Conversations then use the demo model. Safe to repeat.

    Without a user, delete the model access that the organization lends.
    """
    rows = ModelAccess.objects.filter(organization_id=organization_id)
    rows = rows.filter(user_id=user_id) if user_id else rows.filter(user=None)
    for access in rows.select_for_update():
        audit.record(
            action="model_access.cleared",
            organization_id=organization_id,
            subject=access,
            subject_name=_name_of(access),
            before=_describe(access),
        )
        access.delete()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    # Scheme, host and port determine the server that receives the key.
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _clean_base_url(base_url: str, user: User | None) -> str:
    # Users also paste the URL of an endpoint.
    base_url = _ENDPOINTS.sub("", base_url.strip().rstrip("/")).rstrip("/")
    try:
        url_guard.check_url(
            base_url, allow_private=model_servers.find_reach(base_url=base_url, user=user)
        )
    except url_guard.UnsafeUrl as error:
        reason = model_servers.explain_missing_permission(base_url) or str(error)
        raise InvalidModelAccess(f"base_url: {reason}") from error
    if len(base_url) > 500:
        raise InvalidModelAccess("base_url: must not be longer than 500 characters.")
    if urlsplit(base_url).query or urlsplit(base_url).fragment:
        raise InvalidModelAccess("base_url: must not contain a query string or a fragment.")
    return base_url


def _clean_model(model: str) -> str:
    model = model.strip()
    if not model or len(model) > 200 or not model.isprintable():
        raise InvalidModelAccess("model: must have 1 to 200 printable characters.")
    return model


def _clean_api_key(api_key: str) -> str:
    api_key = api_key.strip()
    if is_mask(api_key):
        raise InvalidModelAccess(
            "api_key: this is the mask that is displayed instead of a key. "
            "Omit the key to keep the stored one."
        )
    if api_key and (len(api_key) > 2_000 or not _KEY.fullmatch(api_key)):
        raise InvalidModelAccess(
            "api_key: must have at most 2000 visible ASCII characters and no spaces."
        )
    return api_key
