"""The benchmark of the memory of a web process while 10,000 events go to a hundred sockets, and after they have left.

A protocol is measured on a server of its own. Its memory is sampled after each 1,000 events. A protocol that needs more
than ``MOST_SECONDS`` for 1,000 events, or ``MOST_MEGABYTES`` in all, is not measured further. A second round with other
sockets and another conversation shows whether what stays after the first round grows.
"""

import time
from typing import Any

from bench import logs, report
from bench.protocols import ALL, NATIVE, Protocol, append
from bench.server import Server
from bench.sockets import Crowd

SOCKETS = 100
SAMPLES = 10
STEP = 1_000
BATCH = 50
MOST_SECONDS = 60.0
MOST_MEGABYTES = 1_500.0
LEAVE_SECONDS = 5.0


def run() -> list[dict[str, Any]]:
    """Return the megabytes that the process has grown, compared with the native socket."""
    figures = []
    reference: list[float] = []
    for protocol in (NATIVE, *(each for each in ALL if each is not NATIVE)):
        user, header = logs.user_with_key()
        server = Server()
        try:
            base, grown, left = _round(server, protocol, user, header)
            _, _, left_again = _round(server, protocol, user, header, base)
        finally:
            server.close()
        reference = reference or [grown[-1], left, left_again]
        name = f"{protocol.name}, {SOCKETS} sockets"
        events = len(grown) * STEP
        figures += [
            report.figure(
                "memory",
                f"{name}, after {events:,} events",
                grown[-1],
                reference[0],
                unit="MB",
                reach="flat",
                samples=grown,
            ),
            report.figure(
                "memory", f"{name}, after they left", left, reference[1], unit="MB", reach="back"
            ),
            report.figure(
                "memory",
                f"{name}, after a second round left",
                left_again,
                reference[2],
                unit="MB",
                reach="as after the first",
            ),
        ]
    return figures


def _round(
    server: Server, protocol: Protocol, user: Any, header: str, base: float | None = None
) -> tuple[float, list[float], float]:
    """Send events to new sockets of a new conversation, and close the sockets.

    Return the bytes with all sockets open and before the first event, the growth after each sample in megabytes, and
    the growth after the sockets have left. The growth counts from ``base`` bytes, by default from the first value.
    """
    pk = logs.conversation(user).pk
    crowd = Crowd(
        server.port,
        [protocol.path_of(pk, header)] * SOCKETS,
        protocol.mark,
        headers=header if protocol is NATIVE else "",
        hello=protocol.hello,
    )
    grown: list[float] = []
    try:
        crowd.ready()
        time.sleep(1.0)
        base = base or server.ask("memory")
        for sample in range(SAMPLES):
            crowd.expect(STEP)
            started = time.perf_counter()
            for first in range(sample * STEP, (sample + 1) * STEP, BATCH):
                append(pk, first, BATCH)
            crowd.counted(300)
            grown.append(_megabytes(server, base))
            if time.perf_counter() - started > MOST_SECONDS or grown[-1] > MOST_MEGABYTES:
                break
    finally:
        crowd.close()
    time.sleep(LEAVE_SECONDS)
    return base, grown, _megabytes(server, base)


def _megabytes(server: Server, base: float) -> float:
    return round((server.ask("memory") - base) / 1e6, 1)
