"""Texts that a row keeps encrypted."""

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
