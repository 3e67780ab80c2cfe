"""Detection of masked secrets."""

import pytest

from conversations.services.redaction import HIDDEN
from lib.masks import MASK, is_mask


@pytest.mark.parametrize(
    "text",
    [MASK, HIDDEN, "***", "sk-••••1234", "●●", "abc…", "abc....", "<secret-hidden>", "<redacted>"],
)
def test_masks_of_this_server_and_of_other_programs_are_detected(text):
    assert is_mask(text)


@pytest.mark.parametrize("text", ["", "sk-1234", "a**b", "a...b", "secret_hidden", "redacted"])
def test_other_text_is_not_a_mask(text):
    assert not is_mask(text)
