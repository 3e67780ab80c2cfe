"""What `make chaos` leaves behind: every figure and every control as JSON, and a page to read."""

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
    """Gathers as the tests end. A control must find what is wrong on purpose: its passing means it is red."""

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
                "is_control": "control" in name or "the_checker_sees" in name,
                "figures": [
                    _parsed(line) for line in report.capstdout.splitlines() if _parsed(line)
                ],
                "why": report.longreprtext[-2_000:] if report.outcome == "failed" else "",
            }
        )

    def pytest_sessionfinish(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        told = self.summary()
        (self.folder / "chaos.json").write_text(json.dumps(told, indent=1))
        (self.folder / "chaos.html").write_text(page(told))

    def summary(self) -> dict[str, Any]:
        """Totals over everything that is no control, the controls, and each test."""
        figures = [one for test in self.tests if not test["is_control"] for one in test["figures"]]
        faults: Counter[str] = Counter()
        for one in figures:
            faults.update(one.get("faults", {}))
        calm = [
            seconds
            for one in figures
            for seconds in one.get("seconds_of_calm_until_complete", {}).values()
        ]
        controls = [test for test in self.tests if test["is_control"]]
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.began),
            "cores": os.cpu_count(),
            "totals": {
                "events": sum(_number(one.get("events")) for one in figures),
                "kills": sum(n for name, n in faults.items() if "killed" in name)
                + sum(_number(one.get("kills")) for one in figures),
                **{name: sum(_number(one.get(name)) for one in figures) for name in WRONG},
                "seconds_to_calm": max(calm, default=0),
                "controls": len(controls),
                "controls_red": sum(test["outcome"] == "passed" for test in controls),
                "failed": sum(test["outcome"] == "failed" for test in self.tests),
                "skipped": sum(test["outcome"] == "skipped" for test in self.tests),
            },
            "faults": faults,
            "tests": self.tests,
        }


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "test" in found else None


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def page(told: dict[str, Any]) -> str:
    """The same for people."""
    totals = told["totals"]
    is_clean = not any(totals[name] for name in (*WRONG, "failed"))
    all_red = totals["controls"] == totals["controls_red"]
    verdict = (
        '<p class="good">Nothing was lost, doubled or moved, and every control was caught.</p>'
        if is_clean and all_red
        else '<p class="bad">Something is wrong: see the tests below.</p>'
    )
    numbers = "".join(
        f"<div><b>{value}</b>{name.replace('_', ' ')}</div>" for name, value in totals.items()
    )
    faults = ", ".join(f"{count} × {html.escape(name)}" for name, count in told["faults"].items())
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Chaos</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style>
<h1>What was broken, and what was lost</h1>
<p>{told["at"]}, {told["seconds"]} s on {told["cores"]} cores.</p>{verdict}
<div class="totals">{numbers}</div><p>Faults: {faults or "none"}.</p>
<h2>Tests</h2>{_table(test for test in told["tests"] if not test["is_control"])}
<h2>Controls: what must go wrong, and be seen</h2>{_table((t for t in told["tests"] if t["is_control"]), good="red, as it must be")}
</html>"""


def _table(tests: Any, good: str = "passed") -> str:
    rows = []
    for test in tests:
        is_good = test["outcome"] == "passed"
        word = good if is_good else test["outcome"]
        values = [{k: v for k, v in one.items() if k != "test"} for one in test["figures"]]
        text = "<br>".join(html.escape(json.dumps(one)[1:-1]) for one in values)
        why = f"<pre>{html.escape(test['why'])}</pre>" if test["why"] else ""
        rows.append(
            f"<tr><td>{html.escape(test['test'])}<td class={'good' if is_good else 'bad'}>{word}"
            f'<td>{test["seconds"]} s<td class="figure">{text}{why}'
        )
    return f"<table>{''.join(rows)}</table>"
