"""A Git host of the test's own."""

import pytest

from tests.fakes import github


@pytest.fixture
def fake(tmp_path, settings):
    settings.UPSTREAM_ALLOW_PRIVATE = True
    with github.running(tmp_path) as server:
        yield server
