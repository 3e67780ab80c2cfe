"""A fake Git host, and Alice's connection to it."""

import pytest

from integrations import services
from tests.fakes import github


@pytest.fixture
def fake(tmp_path, settings):
    settings.UPSTREAM_ALLOW_PRIVATE = True
    with github.running(tmp_path) as server:
        yield server


@pytest.fixture
def connected(alice, fake):
    """Alice's connection to the fake Git host, by her token."""
    row, _ = services.connect(
        user=alice,
        organization=alice.personal_organization,
        provider_name="github",
        token=github.TOKEN,
        host_name=fake.host,
    )
    return row
