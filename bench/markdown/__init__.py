"""The benchmark of the Markdown renderer of the pages, in Chromium, with the former parser as the reference.

The former parser used regular expressions, some of which take quadratic time or worse. Each measurement of it stops
after ``PATIENCE`` seconds. 50,000 random documents are drawn as well, and nothing of them may run.
"""

from typing import Any

from playwright.sync_api import TimeoutError as Late

from bench import report
from tests.script_page import ScriptPage, open_script_page

KILOBYTES = (10, 40)
PATIENCE = 20
RANDOM = 50_000
BATCH = 1_000
FORMER = """async ([name, length]) => {
  const { parseMarkdown } = await scripts.load("/bench/markdown/regular_expressions.js");
  const text = scripts.MARKDOWN[name](length);
  return scripts.time(() => parseMarkdown(text));
}"""
OURS = """([name, length]) => {
  const text = scripts.MARKDOWN[name](length);
  scripts.drawMarkdown(text);
  const times = [1, 2, 3].map(() => scripts.time(() => scripts.parseMarkdown(text)));
  return [times.sort((a, b) => a - b)[1], scripts.time(() => scripts.drawMarkdown(text))];
}"""
OTHERS = """([name, kind, length]) => {
  if (kind === "TERMINAL") {
    const text = scripts.TERMINAL[name](length);
    scripts.renderAnsi(text);
    return scripts.time(() => scripts.renderAnsi(text));
  }
  const [before, after] = scripts.DIFF[name](length);
  return scripts.time(() => scripts.hunks(scripts.diffLines(before, after)));
}"""


def run() -> list[dict[str, Any]]:
    """Return the milliseconds per kB of hostile shapes, of random documents, of terminal output and of differences."""
    with open_script_page() as opened:
        names = opened.page.evaluate("Object.keys(scripts.MARKDOWN)")
        figures = [_random(opened)]
        ours = {name: _ours(opened, name) for name in names}
        for kind in ("TERMINAL", "DIFF"):
            figures += _others(opened, kind)
        ran = opened.ran()
    former = _Former()
    try:
        for name in names:
            figures.append(_compare(name, ours[name], former.measure(name)))
    finally:
        former.close()
    figures.append(
        report.figure(
            "markdown", "scripts that ran", len(ran), unit="scripts", reach="0", found=ran[:10]
        )
    )
    return figures


def _random(opened: ScriptPage) -> dict[str, Any]:
    total = {"characters": 0, "milliseconds": 0.0, "slowest": 0.0}
    problems: list[str] = []
    for seed in range(RANDOM // BATCH):
        result = opened.page.evaluate(
            "([seed, count]) => scripts.drawRandom(seed, count)", [seed, BATCH]
        )
        total["characters"] += result["characters"]
        total["milliseconds"] += result["milliseconds"]
        total["slowest"] = max(total["slowest"], result["slowest"])
        problems += result["problems"]
    return report.figure(
        "markdown",
        f"parse, draw and lay out {RANDOM:,} random documents",
        total["milliseconds"] / (total["characters"] / 1000),
        unit="ms per kB",
        reach="0 problems",
        problems=len(problems),
        found=problems[:5],
        kilobytes=round(total["characters"] / 1000),
        slowest_per_kB=round(total["slowest"], 1),
    )


def _ours(opened: ScriptPage, name: str) -> list[tuple[float, float]]:
    """Return for each length the milliseconds of parsing, and of parsing, drawing and layout."""
    return [tuple(opened.page.evaluate(OURS, [name, kilobytes * 1000])) for kilobytes in KILOBYTES]


def _compare(
    name: str, ours: list[tuple[float, float]], former: list[float | None]
) -> dict[str, Any]:
    small, large = (times for times, _ in ours)
    reference = former[0]
    return report.figure(
        "markdown",
        f"parse: {name}, {KILOBYTES[0]} kB",
        small / KILOBYTES[0],
        reference / KILOBYTES[0] if reference is not None else None,
        unit="ms per kB",
        reach="growth near 1",
        growth=_growth(small, large),
        drawn_per_kB=round(ours[-1][1] / KILOBYTES[-1], 3),
        former_growth=_growth(*former) if None not in former else f"over {PATIENCE} s",
    )


def _growth(small: float, large: float) -> float:
    """Return how much the time per kB grows from the small to the large length."""
    ratio = KILOBYTES[1] / KILOBYTES[0]
    return round(large / ratio / small, 2) if small else 0.0


def _others(opened: ScriptPage, kind: str) -> list[dict[str, Any]]:
    figures = []
    for name in opened.page.evaluate(f"Object.keys(scripts.{kind})"):
        small, large = (
            opened.page.evaluate(OTHERS, [name, kind, kilobytes * 1000]) for kilobytes in (100, 400)
        )
        figures.append(
            report.figure(
                "markdown",
                f"{kind.lower()}: {name}, 400 kB",
                large / 400,
                small / 100,
                unit="ms per kB",
                reach="ratio near 1 to 100 kB",
            )
        )
    return figures


class _Former:
    """The former parser in a page of its own, which is replaced when a measurement takes too long."""

    def __init__(self) -> None:
        self._context = open_script_page()
        self._opened = self._context.__enter__()

    def measure(self, name: str) -> list[float | None]:
        """Return the milliseconds of parsing for each length; None if it takes longer than ``PATIENCE``."""
        times: list[float | None] = []
        for kilobytes in KILOBYTES:
            if None in times:
                times.append(None)
                continue
            times.append(self._time(name, kilobytes * 1000))
        return times

    def _time(self, name: str, length: int) -> float | None:
        page = self._opened.page
        # The page must not wait for the answer itself, because a busy page cannot be closed.
        page.evaluate(
            f"""args => {{
              delete scripts.stage.dataset.answer;
              setTimeout(async () => {{ scripts.stage.dataset.answer = await ({FORMER})(args); }});
            }}""",
            [name, length],
        )
        try:
            page.wait_for_selector("main[data-answer]", timeout=PATIENCE * 1000, state="attached")
            return float(page.evaluate("scripts.stage.dataset.answer"))
        except Late:
            self.close()
            self.__init__()  # type: ignore[misc]
            return None

    def close(self) -> None:
        """Close the page, also in the middle of a measurement."""
        self._context.__exit__(None, None, None)
