"""Texts of agents in Chromium: no script runs, no address is loaded, no element or attribute comes from a text."""

import json
import os
from itertools import product
from pathlib import Path

import pytest

from tests import prepare
from tests.script_page import STRICT_POLICY, open_script_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
SHOTS = os.environ.get("OH_SHOTS", "")
"""A folder for screenshots, for people who change the pages. The tests need none."""
FOLDER = prepare.ROOT / "tests" / "payloads" / "xss"
SLOW = pytest.mark.slow
VECTORS = [
    vector
    for name in ("brs_kb.json", "markdown.json")
    for vector in json.loads((FOLDER / name).read_text())
]
SAMPLE = """# Heading one

A paragraph with **bold**, *emphasis*, ~~removed~~, `code` and a [link](https://example.com).
The next line.

- one
  - inner
    1. first
    2. second
- two

  with a paragraph
- [ ] task

> A quote
>
> - with a list
>
> ```py
> print("in a quote")
> ```

| Name | Amount | State |
|:--|--:|:-:|
| alpha | 1 | `ok` |
| a longer name | 12,345 | **bad** |

```python
def add(a, b):
    return a + b
```

![picture](https://example.com/a.png) https://example.com/bare

---
"""


def test_corpus_has_at_least_200_vectors():
    assert len(VECTORS) == len(set(VECTORS))
    assert len(VECTORS) >= 200


@pytest.mark.parametrize(
    "policy",
    [pytest.param("", id="no policy"), pytest.param(STRICT_POLICY, marks=SLOW, id="strict policy")],
)
def test_vector_runs_no_script_and_adds_no_markup(policy):
    with open_script_page(policy=policy) as opened:
        found = opened.page.evaluate(
            """texts => texts.map((text) => [text, scripts.drawAll(text)])
                .filter(([, problems]) => problems.length)""",
            VECTORS,
        )
        opened.page.wait_for_timeout(300)  # for the handlers of images that fail to load

        assert found == []
        assert opened.ran() == []


def test_harness_notices_a_script_and_an_address():
    # Without this, the other tests could pass because nothing is ever noticed.
    with open_script_page(policy="") as opened:
        problems = opened.page.evaluate(
            """() => {
              scripts.stage.innerHTML = "<img src=//evil.example/x onerror=alert(1)><a href=javascript:alert(1)>a</a>";
              return scripts.inspect(scripts.stage);
            }"""
        )
        opened.page.wait_for_function("scripts.ran.length > 0")

        assert "element IMG" in problems
        assert "attribute onerror" in problems
        assert "address javascript:alert(1)" in problems
        assert opened.ran() == ["alert(1)", "request http://evil.example/x"]


@SLOW
def test_random_documents_run_no_script():
    with open_script_page() as opened:
        result = opened.page.evaluate("scripts.drawRandom(13, 1500)")

        assert result["problems"] == []
        assert result["characters"] > 500_000
        assert opened.ran() == []


@SLOW
def test_hostile_shapes_are_drawn_in_linear_time():
    # The former parser took 25 seconds for 10 kB of the first shape. The limit is generous because the machine is busy.
    with open_script_page() as opened:
        slow = opened.page.evaluate(
            """() => Object.entries(scripts.MARKDOWN).map(([name, shape]) =>
                [name, scripts.time(() => scripts.drawMarkdown(shape(49_000)))]).filter(([, taken]) => taken > 5000)"""
        )

        assert slow == []
        assert opened.ran() == []


def test_document_fits_the_page_and_a_longer_one_is_plain_text():
    scrolls = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    with open_script_page() as opened:
        page = opened.page
        page.evaluate("text => scripts.drawMarkdown(text)", SAMPLE)

        assert page.locator(".prose table tbody tr").count() == 2
        assert page.locator(".prose ul ol li").count() == 2
        assert page.locator(".prose img").count() == 0
        for scheme, width in product(("light", "dark"), (1000, 390)):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.set_viewport_size({"width": width, "height": 900})
            assert not page.evaluate(scrolls)
            if SHOTS:
                page.screenshot(path=Path(SHOTS, f"markdown-{scheme}-{width}.png"), full_page=True)
        assert opened.ran() == []

        page.evaluate("scripts.drawMarkdown('**a** '.repeat(20_000))")
        note = "This text has more than 50,000 characters, so it is shown without formatting."
        assert page.locator(".prose strong").count() == 0
        assert page.locator(".prose .diff-note").text_content() == note
        assert page.locator(".prose .unformatted").text_content() == "**a** " * 20_000
