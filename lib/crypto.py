"""Encryption of stored secrets (AES-256-GCM with a key ring) and digests of tokens (HMAC-SHA256).

A sealed value is ``key id (1 length byte + text) | nonce (12 bytes) | ciphertext and tag``. The associated data names
the table, the column and the row, so a value that is copied to another row cannot be decrypted.
"""

import hmac
import secrets
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.apps import apps
from django.conf import settings

from lib.problems import Problem

NONCE_BYTES = 12


class Digested(Protocol):
    """A row that stores the digest of a token."""

    @property
    def pepper_id(self) -> str: ...

    @property
    def digest(self) -> str: ...


Row = TypeVar("Row", bound=Digested)


class Undecryptable(Problem):
    """A sealed value cannot be decrypted: its key is missing, or the value was changed or moved.

    The text of the exception names the row, for logs. ``detail`` is for users: it names the kind of the value and says
    how to replace it (see ``describe_sealed``).
    """

    status = 409
    code = "unreadable-secret"
    sentence = (
        "A stored secret that this action needs cannot be decrypted, probably because the server's encryption key "
        "changed. Enter the secret again, or ask an administrator to run: manage.py audit_encrypted_fields"
    )

    def __init__(self, reason: str, *, bound_to: str = "") -> None:
        kind = describe_sealed(bound_to)
        super().__init__(kind.sentence if kind else None)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class SealedKind:
    """The content of an encrypted column, in the words of users, and the way to replace a value that is lost.

    A model has a dict ``SEALED_KINDS`` from the names of its encrypted columns to their kinds.
    """

    name: str
    remedy: str

    @property
    def sentence(self) -> str:
        """The text for a user whose action needs a value that cannot be decrypted."""
        name = f"{self.name[0].upper()}{self.name[1:]}"
        cause = "probably because the server's encryption key changed"
        return f"{name} cannot be decrypted, {cause}. {self.remedy}"


def describe_sealed(bound_to: str) -> SealedKind | None:
    """Return the kind of a sealed value by the text to which it is bound, or None if no model describes it."""
    for model in apps.get_models():
        for column, kind in getattr(model, "SEALED_KINDS", {}).items():
            default = f"{model._meta.db_table}.{column}:{{pk}}"  # noqa: SLF001 - Django documents _meta
            template = getattr(model, "SEALED_AS", {}).get(column, default)
            if bound_to.startswith(template.removesuffix("{pk}")):
                return cast("SealedKind", kind)
    return None


def seal(plain: str, *, bound_to: str) -> bytes:
    """Encrypt a text with the first key of the ring.

    ``bound_to`` is ``table.column:row id``. The value can be decrypted only with the same ``bound_to``.
    """
    key_id, key = next(iter(settings.ENCRYPTION_KEYS.items()))
    # A nonce must never be used twice with one key. With 12 random bytes a repetition is improbable.
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, plain.encode(), bound_to.encode())
    return bytes([len(key_id)]) + key_id.encode() + nonce + sealed


def open_sealed(sealed: bytes | memoryview, *, bound_to: str) -> str:
    """Decrypt a sealed value with the key that it names. Raise ``Undecryptable`` if that fails."""
    sealed = bytes(sealed)
    key = settings.ENCRYPTION_KEYS.get(read_key_id(sealed))
    if key is None:
        raise Undecryptable(
            f"{bound_to} is encrypted with a key that is not in ENCRYPTION_KEYS", bound_to=bound_to
        )
    rest = sealed[1 + sealed[0] :]
    try:
        plain = AESGCM(key).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], bound_to.encode())
    except (InvalidTag, ValueError) as error:
        raise Undecryptable(
            f"{bound_to} cannot be decrypted: it was changed or moved, or ENCRYPTION_KEYS has another key "
            "under its key id",
            bound_to=bound_to,
        ) from error
    return plain.decode()


class Sealed:
    """A model attribute that encrypts and decrypts a text. The column ``sealed_<name>`` stores the encrypted value.

    The attribute is "" if the column is null.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.column = f"sealed_{name}"

    def __get__(self, row: Any, owner: type | None = None) -> str:
        if row is None:  # accessed on the class, which Django's checks do
            return self  # type: ignore[return-value]
        sealed = getattr(row, self.column)
        return open_sealed(sealed, bound_to=self._binding(row)) if sealed else ""

    def __set__(self, row: Any, plain: str) -> None:
        sealed = seal(plain, bound_to=self._binding(row)) if plain else None
        setattr(row, self.column, sealed)

    def _binding(self, row: Any) -> str:
        return f"{row._meta.db_table}.{self.column}:{row.pk}"  # noqa: SLF001 - Django documents _meta


def read_key_id(sealed: bytes) -> str:
    """Return the id of the key that encrypted a sealed value."""
    return bytes(sealed[1 : 1 + sealed[0]]).decode(errors="replace") if sealed else ""


def digest(secret: str, *, purpose: str) -> tuple[str, str]:
    """Return ``(pepper id, hex digest)`` of a token: its HMAC-SHA256 under the newest pepper."""
    pepper_id, pepper = next(iter(settings.TOKEN_PEPPERS.items()))
    return pepper_id, _hmac(pepper, purpose, secret)


def digests(secret: str, *, purpose: str) -> list[str]:
    """Return the hex digests of a token under every pepper, to look up a row by any of them."""
    return [_hmac(pepper, purpose, secret) for pepper in settings.TOKEN_PEPPERS.values()]


def matches(secret: str, *, purpose: str, pepper_id: str, expected: str) -> bool:
    """Return whether a token has the expected digest; if the pepper is missing, return False. Takes constant time."""
    pepper = settings.TOKEN_PEPPERS.get(pepper_id)
    # Without the pepper, compute a digest anyway, so that the duration does not reveal that the pepper is missing.
    actual = _hmac(pepper or bytes(32), purpose, secret)
    return hmac.compare_digest(actual, expected) and pepper is not None


def verify_row(secret: str, row: Row | None, *, purpose: str) -> Row | None:
    """Return the row if it stores the digest of a token, else None.

    If ``row`` is None, the call takes equally long, so that the duration does not reveal whether a row exists.
    """
    is_match = matches(
        secret,
        purpose=purpose,
        pepper_id=row.pepper_id if row else "",
        expected=row.digest if row else "",
    )
    return row if is_match else None


def _hmac(pepper: bytes, purpose: str, secret: str) -> str:
    # The NUL byte separates the two texts, so that no other pair of texts has the same message.
    message = purpose.encode() + b"\0" + secret.encode(errors="surrogatepass")
    # ``hmac.new`` returns an object and takes five times as long.
    return hmac.digest(pepper, message, "sha256").hex()
