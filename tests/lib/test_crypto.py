"""Encrypted text columns, and digests of tokens."""

from types import SimpleNamespace

import pytest

from accounts.models import IdentityProvider
from lib import crypto


def test_sealed_attribute_returns_its_text_and_stores_only_ciphertext():
    row = IdentityProvider()

    row.client_secret = "a secret"

    assert row.client_secret == "a secret"
    assert b"a secret" not in bytes(row.sealed_client_secret)


def test_empty_sealed_attribute_is_null_in_its_column():
    row = IdentityProvider()
    row.client_secret = "a secret"

    row.client_secret = ""

    assert (row.client_secret, row.sealed_client_secret) == ("", None)


def test_sealed_attribute_copied_to_another_row_cannot_be_decrypted():
    row, other = IdentityProvider(), IdentityProvider()
    row.client_secret = "a secret"
    other.sealed_client_secret = row.sealed_client_secret

    with pytest.raises(crypto.Undecryptable):
        _ = other.client_secret


def create_row(token, purpose="test"):
    pepper_id, digest = crypto.digest(token, purpose=purpose)
    return SimpleNamespace(pepper_id=pepper_id, digest=digest)


def test_token_matches_the_row_with_its_digest():
    row = create_row("secret")

    assert crypto.verify_row("secret", row, purpose="test") is row


def test_other_token_other_purpose_unknown_pepper_and_no_row_match_nothing():
    row = create_row("secret")
    row_of_unknown_pepper = SimpleNamespace(pepper_id="gone", digest=row.digest)

    assert crypto.verify_row("secret", row, purpose="test") is row
    assert crypto.verify_row("other", row, purpose="test") is None
    assert crypto.verify_row("secret", row, purpose="else") is None
    assert crypto.verify_row("secret", row_of_unknown_pepper, purpose="test") is None
    assert crypto.verify_row("secret", None, purpose="test") is None
