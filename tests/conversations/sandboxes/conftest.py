"""The providers under test, and a sandbox of each with the fake engine."""

from collections.abc import Callable, Iterator

import pytest

from conversations.sandboxes.bubblewrap import support
from tests.conversations.sandboxes.box import Box
from tests.fakes.engine import fake_engine

PROVIDERS = ("process", "bubblewrap")


@pytest.fixture(params=PROVIDERS)
def provider_name(request) -> str:
    """The name of the provider. A test for some providers only names them with ``only`` below."""
    if request.param == "bubblewrap" and not support.probe().is_usable:
        pytest.skip(f"needs bubblewrap: {support.probe().cause}")
    return request.param


@pytest.fixture
def make_box(provider_name, settings, tmp_path) -> Iterator[Callable[[], Box]]:
    """Return a function that returns a new sandbox, which is destroyed after the test."""
    settings.SANDBOX_DIR = tmp_path / "sandboxes"
    settings.ENGINE_DIR = fake_engine(tmp_path / "engine")
    settings.ALLOW_PROCESS_SANDBOX = True
    boxes: list[Box] = []

    def make() -> Box:
        boxes.append(Box(provider_name))
        return boxes[-1]

    yield make
    for box in boxes:
        box.clean_up()


@pytest.fixture
def box(make_box) -> Box:
    return make_box()
