"""The benchmark of hiding known secrets in events, by the number of secrets and the kind of text."""

import base64
import json
import random
import time
from pathlib import Path
from typing import Any

from bench import report
from lib.secret_finder import Finder

LENGTH = 100_000
REPEATS = 5
HIDDEN = "<secret_hidden>"


def run() -> list[dict[str, Any]]:
    """Return the milliseconds of processor time per 100 kB of event, without and with a value in it."""
    chance = random.Random(13)
    values = [base64.urlsafe_b64encode(chance.randbytes(30)).decode() for _ in range(53)]
    texts = {
        "code": Path(__file__).read_text() * 60,
        "terminal": "\x1b[32mPASSED\x1b[0m tests/test_a.py::test_b [ 42%]\n" * 2_000,
        "not ASCII": "Это текст без секретов. " * 5_000,
        "escapes": "a%20b&amp;c%2Fd " * 7_000,
        "base64": "\n".join(base64.b64encode(chance.randbytes(57)).decode() for _ in range(1_400)),
    }
    texts["code with a secret"] = f"{texts['code'][: LENGTH - 200]} {values[0]}"
    return [
        report.figure(
            "redaction",
            f"{name}, {count} secrets",
            _measure(Finder(values[:count]), text),
            unit="ms per 100 kB",
            reach="below 5 without a secret in the text",
        )
        for name, text in texts.items()
        for count in (0, 5, 53)
    ]


def _measure(finder: Finder, text: str) -> float:
    payload = json.dumps({"kind": "Observation", "text": text[:LENGTH]}, ensure_ascii=False)
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        finder.hide_in_json(payload, HIDDEN)
        times.append(time.process_time() - began)
    return round(min(times) * 1_000, 3)
