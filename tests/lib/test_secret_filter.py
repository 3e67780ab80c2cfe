"""The quick filter misses no value that the exact search finds, and passes ordinary text."""

import json
import random
import string
import time

import pytest

from lib.secret_filter import Filter
from lib.secret_finder import ExactSearch, Finder
from lib.secret_forms import build_forms
from tests.lib.test_secret_forms import ESCAPED, FLOODS, PEM, WRAPPED, wrap

ALPHABETS = [
    string.ascii_letters + string.digits,
    "0123456789abcdef",
    string.printable[:95],
    "nrtbfvux\\%&;#0123456789abcdef",
    "äöüéя漢🙂ab",
]
BESIDE = ["", " ", "\n", "\\", "\\n", "%", "%4", "%2", "&#", "&a", "\\u00", "\\x", "\\0", "0x", "_"]


def build_filter(*values):
    return Filter({value: build_forms([value]) for value in values})


@pytest.mark.parametrize("seed", range(2))
def test_filter_names_every_value_that_the_exact_search_finds(seed):
    chance = random.Random(seed)
    found = 0
    for _ in range(150):
        value = "".join(chance.choices(chance.choice(ALPHABETS), k=chance.randrange(6, 60)))
        encoding = chance.choice(["plain", *WRAPPED, *ESCAPED])
        text = value
        if encoding in WRAPPED:
            columns, separator = chance.randrange(4, 100), chance.choice(["\n", "\r\n", "\n  "])
            text = wrap(WRAPPED[encoding](value.encode()), columns, separator)
        elif encoding != "plain":
            text = ESCAPED[encoding](value.encode())
        text = chance.choice(BESIDE) + text + chance.choice(BESIDE)
        payloads = (text, json.dumps({"a": [text]}), json.dumps({"a": text}, ensure_ascii=False))
        quick, exact = build_filter(value, "another-value-0"), ExactSearch([value])
        for payload in payloads:
            if exact.find(payload):
                found += 1
                assert value in quick.find(payload), (encoding, value, payload)
    assert found > 300


@pytest.mark.parametrize("length", [40, 64, 200])
def test_filter_names_a_value_by_a_part_of_it(length):
    quick = build_filter(PEM)
    exact = ExactSearch([PEM])
    for form in sorted(build_forms([PEM]).all()):
        for start in range(0, len(form) - length, 111):
            part = form[start : start + length]
            if exact.find(part):
                assert quick.find(f"a {part}") == {PEM}, part


def test_text_without_values_passes():
    quick = build_filter(*(f"Sec-{n}-{'xyz'[n % 3] * 3}-{n * 7919:x}" for n in range(53)))
    text = "".join(
        f"def test_{n}(client):\n    assert client.get('/{n:x}') == 200\n" for n in range(2_000)
    )

    assert quick.find(text) == set()
    assert quick.find(json.dumps({"text": text, "é": "\u001b[32m漢\\"})) == set()


def test_search_of_a_text_with_a_value_needs_no_other_values():
    values = [f"Sec-value-number-{n}" for n in range(100, 150)]

    assert build_filter(*values).find("it is Sec-value-number-123.") == {"Sec-value-number-123"}
    assert Finder(values).hide("it is Sec-value-number-123.", "X") == "it is X."


@pytest.mark.parametrize("flood", FLOODS)
def test_time_of_the_filter_grows_with_the_length_only(flood):
    quick = build_filter(PEM, *(f"{n}-" + "x" * 30 for n in range(50)), "пароль-секрет")

    def measure(length):
        text = (FLOODS[flood] * length)[:length]
        best = []
        for _ in range(3):
            started = time.process_time()
            quick.find(text)
            best.append(time.process_time() - started)
        return min(best)

    short = measure(10_000)
    assert measure(200_000) <= max(60 * short, 0.1)
