"""The owner of a token: the row that holds its digest."""

from types import SimpleNamespace

from lib import crypto


def row_of(token, purpose="test"):
    pepper_id, digest = crypto.digest(token, purpose=purpose)
    return SimpleNamespace(pepper_id=pepper_id, digest=digest)


def test_row_with_the_digest_of_a_token_owns_it():
    row = row_of("secret")

    assert crypto.owner("secret", row, purpose="test") is row


def test_other_token_other_purpose_unknown_pepper_and_no_row_give_nothing():
    row = row_of("secret")
    of_lost_pepper = SimpleNamespace(pepper_id="gone", digest=row.digest)

    assert crypto.owner("other", row, purpose="test") is None
    assert crypto.owner("secret", row, purpose="else") is None
    assert crypto.owner("secret", of_lost_pepper, purpose="test") is None
    assert crypto.owner("secret", None, purpose="test") is None
