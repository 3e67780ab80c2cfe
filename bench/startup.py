"""The benchmark of a web process's start: the time until the first response, and the memory of an idle process."""

import statistics

import psutil

from bench import report
from bench.webs import Web, web

STARTS = 3


def run() -> list[dict]:
    """Return seconds and megabytes, compared with a server that has only minimal views."""
    own = [_start() for _ in range(STARTS)]
    bare = [_start(settings="bench.bare_settings") for _ in range(STARTS)]
    seconds, megabytes = (statistics.median(column) for column in zip(*own, strict=True))
    bare_seconds, bare_megabytes = (statistics.median(c) for c in zip(*bare, strict=True))
    return [
        report.figure(
            "startup", "to the first 200", seconds, bare_seconds, unit="s", reach="<= 2.5 s"
        ),
        report.figure(
            "startup", "idle process", megabytes, bare_megabytes, unit="MB", reach="<= 120 MB"
        ),
    ]


def _start(**options: str) -> tuple[float, float]:
    with web(**options) as process:
        return process.first_seconds, _megabytes(process)


def _megabytes(process: Web) -> float:
    return psutil.Process(process.pid).memory_info().rss / 1_000_000
