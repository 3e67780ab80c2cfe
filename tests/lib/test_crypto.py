"""Texts that a row keeps encrypted, and digests of tokens."""

from types import SimpleNamespace

import pytest

from accounts.models import IdentityProvider
from lib import crypto


def test_sealed_attribute_returns_its_text_and_stores_no_byte_of_it():
    row = IdentityProvider()

    row.client_secret = "a secret"

    assert row.client_secret == "a secret"
    assert b"a secret" not in bytes(row.sealed_client_secret)


def test_empty_sealed_attribute_is_null_in_its_column():
    row = IdentityProvider()
    row.client_secret = "a secret"

    row.client_secret = ""

    assert (row.client_secret, row.sealed_client_secret) == ("", None)


def test_sealed_attribute_of_another_row_does_not_open():
    row, other = IdentityProvider(), IdentityProvider()
    row.client_secret = "a secret"
    other.sealed_client_secret = row.sealed_client_secret

    with pytest.raises(crypto.Undecryptable):
        _ = other.client_secret


def row_of(token, purpose="test"):
    pepper_id, digest = crypto.digest(token, purpose=purpose)
    return SimpleNamespace(pepper_id=pepper_id, digest=digest)


def test_row_with_the_digest_of_a_token_owns_it():
    row = row_of("secret")

    assert crypto.verify_row("secret", row, purpose="test") is row


def test_other_token_other_purpose_unknown_pepper_and_no_row_give_nothing():
    row = row_of("secret")
    of_lost_pepper = SimpleNamespace(pepper_id="gone", digest=row.digest)

    assert crypto.verify_row("other", row, purpose="test") is None
    assert crypto.verify_row("secret", row, purpose="else") is None
    assert crypto.verify_row("secret", of_lost_pepper, purpose="test") is None
    assert crypto.verify_row("secret", None, purpose="test") is None
