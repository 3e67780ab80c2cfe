"""The services of API keys and users, without HTTP."""

import pytest

from accounts import services


def test_key_authenticates_its_owner(alice):
    key, token = services.issue_api_key(user=alice, name="cli")

    row = services.authenticate_api_key(token)

    assert (row.pk, row.user) == (key.pk, alice)
    assert token.startswith(f"{key.prefix}.")


@pytest.mark.parametrize("token", ["", "oh_", "oh_x.y", "nonsense", "oh_\0.x", "oh_" + "a" * 9999])
def test_malformed_key_raises_invalid_key(token, db):
    with pytest.raises(services.InvalidKey):
        services.authenticate_api_key(token)


def test_malformed_address_raises_not_an_address(db):
    with pytest.raises(services.NotAnAddress) as refused:
        services.create_user(email="alice", password="correct horse battery")

    assert (refused.value.status, refused.value.code) == (422, "not-an-address")
