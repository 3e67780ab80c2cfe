"""Secrets at rest: AES-256-GCM under a key ring, bound to the row that holds them.

A sealed value is ``key id (1 length byte + text) | nonce (12 bytes) | ciphertext and tag``. The associated
data names the table, the column and the row, so a value copied to another row does not open.
"""

import hashlib
import hmac
import secrets
from typing import Any, Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

NONCE_BYTES = 12


class Digested(Protocol):
    """A row that holds the digest of a token."""

    @property
    def pepper_id(self) -> str: ...

    @property
    def digest(self) -> str: ...


Row = TypeVar("Row", bound=Digested)


class Undecryptable(Exception):
    """A sealed value does not open: its key is gone, or it was changed or moved."""


def seal(plain: str, *, bound_to: str) -> bytes:
    """Encrypt under the ring's first key. ``bound_to`` is ``table.column:row id``."""
    key_id, key = next(iter(settings.ENCRYPTION_KEYS.items()))
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, plain.encode(), bound_to.encode())
    return bytes([len(key_id)]) + key_id.encode() + nonce + sealed


def open_sealed(sealed: bytes | memoryview, *, bound_to: str) -> str:
    """Decrypt with the key that the value names. Raises ``Undecryptable``."""
    sealed = bytes(sealed)
    key = settings.ENCRYPTION_KEYS.get(key_id_of(sealed))
    if key is None:
        raise Undecryptable(f"{bound_to} is sealed with a key that ENCRYPTION_KEYS does not hold")
    rest = sealed[1 + sealed[0] :]
    try:
        plain = AESGCM(key).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], bound_to.encode())
    except (InvalidTag, ValueError) as error:
        raise Undecryptable(f"{bound_to} does not open: changed, moved, or another key") from error
    return plain.decode()


class Sealed:
    """An attribute of a model: a text that the column ``sealed_<name>`` stores encrypted; "" if it is null."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.column = f"sealed_{name}"

    def __get__(self, row: Any, owner: type | None = None) -> str:
        if row is None:  # asked of the class
            return self  # type: ignore[return-value]  # for Django's checks, which look at classes
        sealed = getattr(row, self.column)
        return open_sealed(sealed, bound_to=self._place(row)) if sealed else ""

    def __set__(self, row: Any, plain: str) -> None:
        sealed = seal(plain, bound_to=self._place(row)) if plain else None
        setattr(row, self.column, sealed)

    def _place(self, row: Any) -> str:
        return f"{row._meta.db_table}.{self.column}:{row.pk}"  # noqa: SLF001 - Django documents _meta


def key_id_of(sealed: bytes) -> str:
    """The id of the key that sealed a value."""
    return bytes(sealed[1 : 1 + sealed[0]]).decode(errors="replace") if sealed else ""


def digest(secret: str, *, purpose: str) -> tuple[str, str]:
    """HMAC-SHA256 of a token under the newest pepper: ``(pepper id, hex digest)``."""
    pepper_id, pepper = next(iter(settings.TOKEN_PEPPERS.items()))
    return pepper_id, _hmac(pepper, purpose, secret)


def digests(secret: str, *, purpose: str) -> list[str]:
    """The hex digests of a token under every pepper there is, to find a row by one of them."""
    return [_hmac(pepper, purpose, secret) for pepper in settings.TOKEN_PEPPERS.values()]


def matches(secret: str, *, purpose: str, pepper_id: str, expected: str) -> bool:
    """Whether a token is the one digested, in constant time; False when the pepper is gone."""
    pepper = settings.TOKEN_PEPPERS.get(pepper_id)
    found = _hmac(pepper or bytes(32), purpose, secret)
    return hmac.compare_digest(found, expected) and pepper is not None


def owner(secret: str, row: Row | None, *, purpose: str) -> Row | None:
    """Return the row if it holds the digest of a token, else None; without a row, in the same time."""
    is_right = matches(
        secret,
        purpose=purpose,
        pepper_id=row.pepper_id if row else "",
        expected=row.digest if row else "",
    )
    return row if is_right else None


def _hmac(pepper: bytes, purpose: str, secret: str) -> str:
    message = purpose.encode() + b"\0" + secret.encode(errors="surrogatepass")
    return hmac.new(pepper, message, hashlib.sha256).hexdigest()
