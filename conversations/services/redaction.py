"""Removal of secrets from events of sandboxes, and from messages and titles of users, before they are stored."""

import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from uuid import UUID

from accounts.services import custom_secrets
from billing import services as billing
from conversations.services import owners
from lib.redaction import hide_own_tokens
from lib.secret_finder import Finder
from lib.secret_forms import MIN_LENGTH

HIDDEN = "<secret_hidden>"
NO_SECRETS_SECONDS = 2.0
"""How long the result "no secrets" is cached. After a user adds a secret, a sandbox needs more time to fetch it."""
CACHE_MAX = 10_000
_no_secrets_until: dict[tuple[UUID, UUID], float] = {}


def build_payload_redactor(conversation_id: UUID) -> Callable[[str], str] | None:
    """Return a function that removes a conversation's secrets from JSON text, or None if there are no secrets.

    Runs database queries. The result None is cached for two seconds.
    """
    finder = find_secrets(conversation_id)
    return (lambda payload: redact(payload, finder)) if finder else None


def find_secrets(conversation_id: UUID) -> Finder | None:
    """Return a search for the secrets of a conversation's creator and organization, or None if there are none.

    Runs database queries. The result None is cached for two seconds.
    """
    owner = owners.find_owner(conversation_id)
    if owner is None:
        return None
    if time.monotonic() < _no_secrets_until.get(owner, 0.0):
        return None
    values = values_to_hide(user_id=owner[0], organization_id=owner[1])
    if not values:
        if len(_no_secrets_until) >= CACHE_MAX:
            _no_secrets_until.clear()
        _no_secrets_until[owner] = time.monotonic() + NO_SECRETS_SECONDS
        return None
    return build_finder(tuple(sorted(values)))


def values_to_hide(*, user_id: UUID, organization_id: UUID) -> set[str]:
    """Return the values that must not appear in the log of a user's conversation. Runs five database queries.

    The values are the secrets, the tokens of Git hosts, the keys in the settings and those of the model servers, of the
    user and of the organization.
    """
    place = {"user_id": user_id, "organization_id": organization_id}
    values = {*custom_secrets.values_to_hide(**place), *billing.keys_to_hide(**place)}
    return {value for value in values if len(value) >= MIN_LENGTH}


def hide_in_text(text: str, *, user_ids: Iterable[UUID], organization_id: UUID) -> str:
    """Return a user's text with ``<secret_hidden>`` in place of the secrets of some users and of the organization.

    Tokens of this server are hidden too. Runs five database queries for each user.
    """
    values: set[str] = set()
    for user_id in user_ids:
        values |= values_to_hide(user_id=user_id, organization_id=organization_id)
    if values:
        text = build_finder(tuple(sorted(values))).hide(text, HIDDEN)
    return hide_own_tokens(text, HIDDEN)


def clear_cache() -> None:
    """Clear the cached creators of conversations and the cached results "no secrets"."""
    owners.clear_cache()
    _no_secrets_until.clear()


def redact(payload: str, finder: Finder) -> str:
    """Return JSON text with ``<secret_hidden>`` in place of each secret that occurs in one of its strings.

    All other text stays byte for byte the same, and valid JSON stays valid.
    """
    return finder.hide_in_json(payload, HIDDEN)


@lru_cache(maxsize=256)
def build_finder(values: tuple[str, ...]) -> Finder:
    """Return a search for secret values, from a cache."""
    return Finder(values)
