"""The report of `make chaos`: the figures of all tests and controls, as JSON and as an HTML page."""

import html
import json
import os
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

WRONG = ("lost", "doubled", "gaps", "moved", "inversions", "incomplete")
STYLE = """
:root{color-scheme:light dark;--line:color-mix(in srgb,currentColor 18%,transparent)}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2.5rem auto;padding:0 1.2rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2.2rem 0 .5rem}
.totals{display:flex;flex-wrap:wrap;gap:.4rem 2.2rem;margin:1.4rem 0}
.totals b{display:block;font-size:1.6rem;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;
padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--line)}
td:nth-child(3){white-space:nowrap}td.figure{font:12.5px/1.45 ui-monospace,monospace;overflow-wrap:anywhere}
.good{color:#18794e}.bad{color:#cd2b31;font-weight:600}
@media (prefers-color-scheme:dark){.good{color:#4cc38a}.bad{color:#ff6369}}
"""


class Report:
    """A pytest plugin that collects results and writes the report.

    A control breaks something on purpose and passes if the fault is detected.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.began = time.monotonic()
        self.tests: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        name = report.nodeid.partition("::")[2]
        self.tests.append(
            {
                "test": name,
                "outcome": report.outcome,
                "seconds": round(report.duration, 1),
                "is_control": "control" in name or "test_checker_finds" in name,
                "figures": [
                    _parse_figure(line)
                    for line in report.capstdout.splitlines()
                    if _parse_figure(line)
                ],
                "why": report.longreprtext[-2_000:] if report.outcome == "failed" else "",
            }
        )

    def pytest_sessionfinish(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        summary = self.summary()
        (self.folder / "chaos.json").write_text(json.dumps(summary, indent=1))
        (self.folder / "chaos.html").write_text(render_page(summary))

    def summary(self) -> dict[str, Any]:
        """Return the totals of the tests that are not controls, the counts of controls, and all tests."""
        figures = [
            figure for test in self.tests if not test["is_control"] for figure in test["figures"]
        ]
        faults: Counter[str] = Counter()
        for figure in figures:
            faults.update(figure.get("faults", {}))
        calm = [
            seconds
            for figure in figures
            for seconds in figure.get("seconds_of_calm_until_complete", {}).values()
        ]
        controls = [test for test in self.tests if test["is_control"]]
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.began),
            "cores": os.cpu_count(),
            "totals": {
                "events": sum(_count(figure.get("events")) for figure in figures),
                "kills": sum(n for name, n in faults.items() if "killed" in name)
                + sum(_count(figure.get("kills")) for figure in figures),
                **{name: sum(_count(figure.get(name)) for figure in figures) for name in WRONG},
                "seconds_to_calm": max(calm, default=0),
                "controls": len(controls),
                "controls_red": sum(test["outcome"] == "passed" for test in controls),
                "failed": sum(test["outcome"] == "failed" for test in self.tests),
                "skipped": sum(test["outcome"] == "skipped" for test in self.tests),
            },
            "faults": faults,
            "tests": self.tests,
        }


def _parse_figure(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) and "test" in values else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def render_page(summary: dict[str, Any]) -> str:
    """Return the report as an HTML page."""
    totals = summary["totals"]
    is_clean = not any(totals[name] for name in (*WRONG, "failed"))
    all_controls_passed = totals["controls"] == totals["controls_red"]
    verdict = (
        '<p class="good">Nothing was lost, doubled or moved, and every control detected its fault.</p>'
        if is_clean and all_controls_passed
        else '<p class="bad">There are failures; see the tests below.</p>'
    )
    numbers = "".join(
        f"<div><b>{value}</b>{name.replace('_', ' ')}</div>" for name, value in totals.items()
    )
    faults = ", ".join(
        f"{count} × {html.escape(name)}" for name, count in summary["faults"].items()
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Chaos</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style>
<h1>Injected faults and their effects</h1>
<p>{summary["at"]}, {summary["seconds"]} s on {summary["cores"]} cores.</p>{verdict}
<div class="totals">{numbers}</div><p>Faults: {faults or "none"}.</p>
<h2>Tests</h2>{_render_table(test for test in summary["tests"] if not test["is_control"])}
<h2>Controls: faults on purpose, which must be detected</h2>{_render_table((t for t in summary["tests"] if t["is_control"]), good="detected")}
</html>"""


def _render_table(tests: Any, good: str = "passed") -> str:
    rows = []
    for test in tests:
        is_good = test["outcome"] == "passed"
        word = good if is_good else test["outcome"]
        values = [{k: v for k, v in figure.items() if k != "test"} for figure in test["figures"]]
        text = "<br>".join(html.escape(json.dumps(figure)[1:-1]) for figure in values)
        why = f"<pre>{html.escape(test['why'])}</pre>" if test["why"] else ""
        rows.append(
            f"<tr><td>{html.escape(test['test'])}<td class={'good' if is_good else 'bad'}>{word}"
            f'<td>{test["seconds"]} s<td class="figure">{text}{why}'
        )
    return f"<table>{''.join(rows)}</table>"
