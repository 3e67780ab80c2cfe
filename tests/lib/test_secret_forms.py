"""Known secrets are found in every usual encoding, wherever lines are wrapped, in linear time."""

import base64
import html
import json
import random
import re
import shlex
import shutil
import string
import subprocess
import time
from urllib.parse import quote

import pytest

from lib.secret_finder import Finder
from lib.secret_forms import build_forms

PEM = (
    "-----BEGIN KEY-----\n"
    + "\n".join(base64.b64encode(bytes(range(n, n + 48))).decode() for n in range(0, 200, 20))
    + "\n-----END KEY-----\n"
)
VALUES = {
    "token": "ghp_" + string.ascii_letters[:36],
    "odd": 'pa"ss\\wörd/+ 1=?',
    "quotes": "it's 'a' \"test\" $HOME",
    "PEM": PEM,
}
HIDDEN = "<hidden>"


def wrap(text, columns, separator="\n"):
    parts = [text[i : i + columns] for i in range(0, len(text), columns)]
    return separator.join(parts)


def hide(text, *values):
    return Finder(values).hide(text, HIDDEN)


WRAPPED = {
    "base64": lambda raw: base64.b64encode(raw).decode(),
    "base64url": lambda raw: base64.urlsafe_b64encode(raw).decode(),
    "base32": lambda raw: base64.b32encode(raw).decode(),
    "base32 in lower case": lambda raw: base64.b32encode(raw).decode().lower(),
    "hex": lambda raw: raw.hex(),
    "hex in upper case": lambda raw: raw.hex().upper(),
}
ESCAPED = {
    "URL": lambda raw: quote(raw, safe=""),
    "URL twice": lambda raw: quote(quote(raw, safe=""), safe=""),
    "URL in lower case": lambda raw: "".join(f"%{byte:02x}" for byte in raw),
    "URL of base64": lambda raw: quote(base64.b64encode(raw), safe=""),
    "form": lambda raw: quote(raw, safe="").replace("%20", "+"),
    "HTML": lambda raw: html.escape(raw.decode()),
    "HTML numbers": lambda raw: "".join(f"&#{ord(c)};" for c in raw.decode()),
    "HTML hex numbers": lambda raw: "".join(f"&#x{ord(c):X};" for c in raw.decode()),
    "JSON": lambda raw: json.dumps(raw.decode()),
    "JSON twice": lambda raw: json.dumps(json.dumps(raw.decode())),
    "JSON escapes": lambda raw: "".join(f"\\u{ord(c):04x}" for c in raw.decode()),
    "shell hex": lambda raw: "".join(f"\\x{byte:02x}" for byte in raw),
    "shell octal": lambda raw: "".join(f"\\{byte:03o}" for byte in raw),
    "hex with colons": lambda raw: raw.hex(":"),
    "C array": lambda raw: ", ".join(f"0x{byte:02X}" for byte in raw),
    "hex with spaces": lambda raw: raw.hex(" "),
    "numbers": lambda raw: str(list(raw)),
    "octal numbers": lambda raw: " ".join(f"{byte:03o}" for byte in raw),
    "base64 twice": lambda raw: base64.b64encode(base64.b64encode(raw)).decode(),
    "base64 without padding": lambda raw: base64.b64encode(raw).decode().rstrip("="),
    "shell quotes": lambda raw: shlex.quote(raw.decode()),
    "shell quotes with backslashes": lambda raw: "'" + raw.decode().replace("'", "'\\''") + "'",
    "Python text": lambda raw: repr(raw.decode()),
    "Python bytes": repr,
    "JSON in Python text": lambda raw: repr(json.dumps(raw.decode())),
    "JSON in a form": lambda raw: quote(json.dumps(raw.decode())),
}
DUMPS = {
    "xxd": ["xxd"],
    "xxd in upper case": ["xxd", "-u"],
    "xxd with single bytes": ["xxd", "-g1"],
    "hexdump": ["hexdump", "-C"],
    "hexdump of words": ["hexdump"],
    "od in hexadecimal": ["od", "-t", "x1"],
    "od in hexadecimal with text": ["od", "-A", "x", "-t", "x1z"],
    "od of words": ["od", "-x"],
    "od in octal words": ["od"],
    "od in octal": ["od", "-b"],
    "od in decimal": ["od", "-t", "u1"],
    "od as characters": ["od", "-c"],
}


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\n    "])
@pytest.mark.parametrize("columns", [20, 64, 76])
@pytest.mark.parametrize("encoding", WRAPPED)
@pytest.mark.parametrize("name", VALUES)
def test_value_in_a_wrapped_encoding_is_hidden_at_every_alignment(
    name, encoding, columns, separator
):
    for before in range(5):
        raw = b"#" * before + VALUES[name].encode() + b"."
        text = f"$ run\n{wrap(WRAPPED[encoding](raw), columns, separator)}\n$ "

        left = hide(text, VALUES[name]).replace(HIDDEN, "")

        # Only the characters that also encode bytes beside the value may be left.
        assert len("".join(left.split())) <= len("$run$") + 2 * before + 8, left


@pytest.mark.parametrize("encoding", ESCAPED)
@pytest.mark.parametrize("name", VALUES)
def test_value_in_escapes_is_hidden(name, encoding):
    text = f"before {ESCAPED[encoding](VALUES[name].encode())} after"

    left = hide(text, VALUES[name])

    assert left.startswith("before ")
    assert left.endswith(" after")
    assert HIDDEN in left
    assert len(left.replace(HIDDEN, "")) <= len("before  after") + 20


@pytest.mark.parametrize("before", [b"", b"#", b"key = "])
@pytest.mark.parametrize("dump", DUMPS)
def test_value_in_a_dump_is_hidden(dump, before):
    value = "Sec-value_of/the+dump.0123456789-abcdef"
    if shutil.which(DUMPS[dump][0]) is None:
        pytest.skip(f"{DUMPS[dump][0]} is not installed")
    raw = before + value.encode() + b"\nand the next line, which is long enough"
    text = subprocess.run(DUMPS[dump], input=raw, capture_output=True, check=True).stdout.decode()

    for hidden in (
        hide(f"$ run\n{text}$ ", value),
        json.loads(Finder([value]).hide_in_json(json.dumps(f"$ run\n{text}$ "), HIDDEN)),
    ):
        assert hidden.startswith("$ run\n000000")
        assert HIDDEN in hidden
        # Two bytes at most are left: halves of words.
        for start in range(2, len(value) - 6):
            assert value[start : start + 4] not in hidden, hidden
            for form in build_forms([value[start : start + 8]]).digits:
                assert form not in re.sub(r"\s", "", hidden), hidden


@pytest.mark.parametrize("columns", [64, 76])
def test_part_of_a_long_value_is_hidden_when_output_is_cut(columns):
    lines = wrap(base64.b64encode(PEM.encode()).decode(), columns).split("\n")

    for cut in (lines[2:4], lines[1:2], [lines[0][10:]], [lines[3][:50], "[output clipped]"]):
        text = "\n".join(cut)
        assert hide(text, PEM).replace(HIDDEN, "").split() in ([], ["[output", "clipped]"])


@pytest.mark.parametrize(
    "text",
    ["an ordinary sentence with the word pass word in it", "deadbeef cafe", "%41%42 &amp; \\u0041"],
)
def test_other_text_is_unchanged(text):
    assert hide(text, "password", *VALUES.values()) == text


def test_words_are_not_joined_to_a_short_value():
    assert hide("pass word", "password") == "pass word"


def test_place_is_exact_among_wide_characters():
    assert hide("🙂é&lt; tok%65n-12345 é🙂", "token-12345") == f"🙂é&lt; {HIDDEN} é🙂"


def test_json_around_a_value_is_unchanged():
    text = '{ "a": "\\u00e9\\n", "b": [1.0, "%s\\n%s" ]}'
    encoded = base64.b64encode(VALUES["token"].encode()).decode().rstrip("=")
    payload = text % (encoded[:30], encoded[30:])

    hidden = Finder([VALUES["token"]]).hide_in_json(payload, HIDDEN)

    assert hidden.startswith('{ "a": "\\u00e9\\n", "b": [1.0, "')
    assert json.loads(hidden)["b"][1].replace(HIDDEN, "").strip() in ("", encoded[-1:])


FLOODS = {
    "escapes": "\\",
    "percent": "%4",
    "entities": "&#1",
    "ampersands": "&",
    "begun entity": "&a",
    "space": " ",
    "begin of the value": VALUES["token"][:6],
    "most of the value": VALUES["token"][:-1],
    "seeds": base64.b64encode(PEM.encode()).decode()[:47] + "!",
    "whole value": PEM,
    "quotes": '"',
}


@pytest.mark.parametrize("flood", FLOODS)
def test_time_grows_with_the_length_only(flood):
    """Twenty times the text may take at most sixty times as long; a square would take four hundred times as long."""
    finder = Finder([*VALUES.values(), *(f"{n}-" + "x" * 30 for n in range(50))])

    def measure(length):
        payload = json.dumps({"text": (FLOODS[flood] * length)[:length]})
        best = []
        for _ in range(3):
            started = time.process_time()
            finder.hide_in_json(payload, HIDDEN)
            best.append(time.process_time() - started)
        return min(best)

    short = measure(2_000)
    assert measure(40_000) <= max(60 * short, 0.1)


def test_random_encodings_of_random_values_are_hidden():
    chance = random.Random(24)
    for _ in range(300):
        value = "".join(chance.choices(string.printable[:94] + "é漢", k=chance.randrange(8, 90)))
        encoding = chance.choice([*WRAPPED, *ESCAPED])
        raw = value.encode()
        if encoding in WRAPPED:
            text = wrap(WRAPPED[encoding](raw), chance.randrange(10, 100))
        else:
            text = ESCAPED[encoding](raw)

        assert HIDDEN in hide(f"[{text}]", value), (encoding, value)
