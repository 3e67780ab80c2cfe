"""The report of the benchmarks. A figure is a measurement, usually with a reference from the same run."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results" / "latest.json"


def figure(
    bench: str,
    what: str,
    ours: float,
    reference: float | None = None,
    *,
    unit: str,
    reach: str = "",
    **more: Any,
) -> dict[str, Any]:
    """Print and return one row of the report.

    ``ratio`` is ``ours`` divided by ``reference``. ``reach`` is the goal as a text.
    """
    row: dict[str, Any] = {"bench": bench, "what": what, "ours": _short(ours), "unit": unit}
    if reference is not None:
        row |= {
            "reference": _short(reference),
            "ratio": round(ours / reference, 2) if reference else None,
        }
    row |= {"reach": reach} | more
    print(json.dumps(row), flush=True)
    return row


def typical(rates: Sequence[float]) -> float:
    """Return the median of several measurements, on which one slow measurement has little effect."""
    return median(rates)


def table(figures: Iterable[dict[str, Any]]) -> str:
    """Return the figures as a table for people."""
    names = ("bench", "what", "ours", "reference", "ratio", "unit", "reach")
    rows = [names, *(tuple(_cell(figure.get(name)) for name in names) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def save(
    figures: list[dict[str, Any]], path: Path = RESULTS, *, failed: Sequence[str] = ()
) -> None:
    """Write the figures, a description of this machine and the names of failed benchmarks to a JSON file."""
    machine = {
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    path.parent.mkdir(exist_ok=True)
    content: dict[str, Any] = {"machine": machine, "figures": figures}
    if failed:
        content["failed"] = list(failed)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _short(value: float) -> float | int:
    return round(value) if abs(value) >= 100 else round(value, 3)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
