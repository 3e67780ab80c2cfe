"""Removal of secrets from events of sandboxes, and from messages and titles of users, before they are stored."""

import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from uuid import UUID

from accounts.services import custom_secrets
from conversations.services import equipment
from lib.secret_finder import Finder

HIDDEN = "<secret_hidden>"
NO_SECRETS_SECONDS = 2.0
"""How long the result "no secrets" is cached. After a user adds a secret, a sandbox needs more time to fetch it."""
CACHE_MAX = 10_000
_owners: dict[UUID, tuple[UUID, UUID]] = {}
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
    owner = _owners.get(conversation_id) or equipment.find_owner(conversation_id)
    if owner is None:
        return None
    if len(_owners) >= CACHE_MAX:
        _owners.clear()
    _owners[conversation_id] = owner
    if time.monotonic() < _no_secrets_until.get(owner, 0.0):
        return None
    values = custom_secrets.values_to_hide(user_id=owner[0], organization_id=owner[1])
    if not values:
        if len(_no_secrets_until) >= CACHE_MAX:
            _no_secrets_until.clear()
        _no_secrets_until[owner] = time.monotonic() + NO_SECRETS_SECONDS
        return None
    return build_finder(tuple(values))


def hide_in_text(text: str, *, user_ids: Iterable[UUID], organization_id: UUID) -> str:
    """Return a user's text with ``<secret_hidden>`` in place of the secrets of some users and of the organization.

    Runs two database queries for each user.
    """
    values: set[str] = set()
    for user_id in user_ids:
        values.update(
            custom_secrets.values_to_hide(user_id=user_id, organization_id=organization_id)
        )
    return build_finder(tuple(sorted(values))).hide(text, HIDDEN) if values else text


def clear_cache() -> None:
    """Clear the cached creators of conversations and the cached results "no secrets"."""
    _owners.clear()
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
