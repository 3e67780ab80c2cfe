"""Browser sessions that are stored under digests of their cookies in PostgreSQL and Redis.

Django stores the value of the cookie itself, so a copy of the table would allow signing in as any user.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends import cached_db
from django.core.cache import BaseCache, caches
from django.utils import timezone
from redis.exceptions import RedisError

from lib.causes import REDIS_UNREACHABLE, describe, find_cause
from lib.logs import once_a_minute

log = logging.getLogger(__name__)


def digest_key(session_key: str) -> str:
    """Return the stored digest of a cookie's value: the first 160 bits of its SHA-256, which fit the column."""
    return hashlib.sha256(session_key.encode()).hexdigest()[:40]


class SessionStore(cached_db.SessionStore):
    """Django's ``cached_db`` sessions, stored under the digest of the cookie's value."""

    # Attributes of Django's class that its stubs omit or declare as ``Any``.
    cache_key_prefix: str
    _get_or_create_session_key: Callable[[], str]
    _aget_or_create_session_key: Callable[[], Awaitable[str]]

    def __init__(self, session_key: str | None = None) -> None:
        # Not the constructor of ``cached_db``, which looks up the cache. Most requests use no session.
        super(cached_db.SessionStore, self).__init__(session_key)

    @cached_property
    def _cache(self) -> BaseCache:
        return caches[settings.SESSION_CACHE_ALIAS]

    @property
    def cache_key(self) -> str:
        return self.cache_key_prefix + digest_key(self._get_or_create_session_key())

    async def acache_key(self) -> str:
        key = await self._aget_or_create_session_key()
        return self.cache_key_prefix + digest_key(key)

    def load(self) -> dict[str, Any]:
        """Return the session's data. While Redis is unavailable, read it from PostgreSQL only."""
        try:
            return super().load()
        except (RedisError, OSError) as error:
            cause = find_cause(error) or REDIS_UNREACHABLE
            message = f"Sessions are read from PostgreSQL. {describe(cause, error)}"
            once_a_minute(log, logging.WARNING, cause.code, message)
        row = self._get_session_from_db() if self.session_key else None
        return self.decode(row.session_data) if row else {}

    async def aload(self) -> dict[str, Any]:
        return await sync_to_async(self.load)()

    def _get_session_from_db(self) -> Any:
        row = self.model.objects.filter(
            session_key=digest_key(self.session_key or ""), expire_date__gt=timezone.now()
        ).first()
        # As in Django's class, forget the key of a session that does not exist.
        if row is None:
            self._session_key = None
        return row

    async def _aget_session_from_db(self) -> Any:
        return await sync_to_async(self._get_session_from_db)()

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        row = super().create_model_instance(data)
        row.session_key = digest_key(row.session_key)
        return row

    async def acreate_model_instance(self, data: dict[str, Any]) -> Any:
        row = await super().acreate_model_instance(data)
        row.session_key = digest_key(row.session_key)
        return row

    def exists(self, session_key: str) -> bool:
        return self.model.objects.filter(session_key=digest_key(session_key)).exists()

    async def aexists(self, session_key: str) -> bool:
        return await sync_to_async(self.exists)(session_key)

    def delete(self, session_key: str | None = None) -> None:
        session_key = session_key or self.session_key
        if session_key is not None:
            self.model.objects.filter(session_key=digest_key(session_key)).delete()
            self._cache.delete(self.cache_key_prefix + digest_key(session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        await sync_to_async(self.delete)(session_key)
