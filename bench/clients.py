"""The benchmark of the sockets that existing clients use, V0 (Socket.IO) and V1, beside the native socket.

Fan-out is measured as in ``fanout``: the events are in the log, and one nudge starts their delivery. The reference is
python-socketio, which emits to a room in the same process. Single events are measured by one client, which appends an
event, and waits for its frame or not. The floor beside them appends, sends a nudge and reads the event in one thread,
without a socket.
"""

import time
from typing import Any
from uuid import UUID

from bench import logs, report
from bench.fanout import HELLO_PATH, _emit, _rates, _settle
from bench.protocols import ALL, NATIVE, Protocol, append
from bench.server import Server
from bench.sockets import Crowd, _masked, _open, _take
from conversations import announcing
from conversations.models import Event
from lib.bus import publisher

SOCKETS = 100
EVENTS = 300
NATIVE_EVENTS = 1_500
"""More events for the native socket, whose delivery otherwise takes too little time to measure."""
ROUNDS = 3
SINGLE = 150
"""The number of single events of each protocol in a round."""
SINGLE_ROUNDS = 5


def run() -> list[dict[str, Any]]:
    """Return deliveries to a hundred sockets, and events to one socket, per second and per CPU second."""
    server = Server()
    try:
        return _fan_out(server) + _single(server)
    finally:
        server.close()


# --- A hundred sockets of one conversation ----------------------------------------


def _fan_out(server: Server) -> list[dict[str, Any]]:
    crowd = Crowd(server.port, [HELLO_PATH] * SOCKETS, "42[", hello="40")
    peer = _rates(server, crowd, SOCKETS, EVENTS, _emit)
    figures = []
    for protocol in ALL:
        wall, cpu = _deliver(server, protocol)
        name = f"{protocol.name}, 1 x {SOCKETS}"
        reach = "" if protocol is NATIVE else ">= 1.5 of python-socketio"
        figures += [
            report.figure("clients", name, wall, peer[0], unit="deliveries/s", reach=reach),
            report.figure(
                "clients", f"{name}, by CPU", cpu, peer[1], unit="deliveries/CPU s", reach=reach
            ),
        ]
    return figures


def _deliver(server: Server, protocol: Protocol) -> tuple[float, float]:
    """Return deliveries per second and per CPU second to sockets that wait at the end of the log."""
    user, header = logs.user_with_key()
    pk = logs.conversation(user).pk
    headers = header if protocol is NATIVE else ""
    paths = [protocol.path_of(pk, header)] * SOCKETS
    crowd = Crowd(server.port, paths, protocol.mark, headers=headers, hello=protocol.hello)
    nudge = publisher.nudge
    events = NATIVE_EVENTS if protocol is NATIVE else EVENTS
    wall, cpu = [], []
    try:
        crowd.ready()
        time.sleep(1.0)
        for first in range(0, ROUNDS * events, events):
            publisher.nudge = lambda *_: None
            for start in range(first, first + events, 100):
                append(pk, start, 100)
            publisher.nudge = nudge
            crowd.expect(events)
            time.sleep(0.2)
            before, started = server.ask("cpu"), time.time()
            announcing.announce(pk)
            ended, _ = crowd.counted(300)
            wall.append(events * SOCKETS / (ended - started))
            cpu.append(events * SOCKETS / (server.ask("cpu") - before))
            _settle(crowd)
    finally:
        publisher.nudge = nudge
        crowd.close()
    return report.typical(wall), report.typical(cpu)


# --- One socket --------------------------------------------------------------------


class Reader:
    """One socket that reads frames in the thread of the benchmark."""

    def __init__(self, server: Server, protocol: Protocol) -> None:
        user, header = logs.user_with_key()
        self.pk: UUID = logs.conversation(user).pk
        self.protocol, self.appended = protocol, 0
        headers = header if protocol is NATIVE else ""
        self._client = _open(server.port, protocol.path_of(self.pk, header), headers)
        self._link = self._client.link
        if protocol.hello:
            self._link.sendall(_masked(protocol.hello.encode()))
        self.skip(1.0)

    def append(self) -> None:
        append(self.pk, self.appended, 1)
        self.appended += 1

    def wait(self, count: int) -> None:
        """Read until ``count`` events have arrived."""
        self._link.settimeout(60)
        while count > 0:
            count -= self._read()

    def skip(self, seconds: float) -> None:
        """Read the frames that arrive within this time."""
        until = time.time() + seconds
        while (left := until - time.time()) > 0:
            self._link.settimeout(left)
            try:
                self._read()
            except TimeoutError:
                return

    def close(self) -> None:
        self._link.close()

    def _read(self) -> int:
        piece = self._link.recv(262_144)
        if not piece:
            raise ConnectionError("the socket was closed")
        self._client.buffer += piece
        return _take(self._client, self.protocol.mark.encode())


class Floor:
    """Append, nudge and read of an event in one thread, without a socket."""

    def __init__(self) -> None:
        user, _ = logs.user_with_key()
        self.pk, self.appended = logs.conversation(user).pk, 0

    def append(self) -> None:
        append(self.pk, self.appended, 1)
        self.appended += 1

    def wait(self, count: int) -> None:
        """Read the newest events from the database."""
        rows = Event.objects.filter(conversation_id=self.pk, seq__gt=self.appended - count)
        columns = ("seq", "event_id", "kind", "source", "payload", "engine_time", "received_at")
        assert len(rows.order_by("seq").values_list(*columns)) == count


def _single(server: Server) -> list[dict[str, Any]]:
    readers = {protocol.name: Reader(server, protocol) for protocol in ALL}
    floor = Floor()
    figures = []
    for name, measure in (("each awaited", _awaited), ("pipelined", _pipelined)):
        rates: dict[str, list[float]] = {key: [] for key in (*readers, "floor")}
        cpu: dict[str, list[float]] = {key: [] for key in readers}
        for _ in range(SINGLE_ROUNDS):
            for key, reader in readers.items():
                before = server.ask("cpu")
                rates[key].append(measure(reader))
                cpu[key].append((server.ask("cpu") - before) / SINGLE * 1e6)
            rates["floor"].append(measure(floor))
        native = report.typical(rates["native"])
        figures += [
            report.figure(
                "clients",
                f"{key}, 1 socket, {name}",
                report.typical(rates[key]),
                native,
                unit="events/s",
                reach=">= 0.8 of the native socket" if key != "native" else "",
                floor=round(report.typical(rates["floor"])),
                server_cpu_microseconds=round(report.typical(cpu[key])),
            )
            for key in readers
        ]
    for reader in readers.values():
        reader.close()
    return figures


def _awaited(reader: Any) -> float:
    """Return events per second if each event is appended after the frame of the previous event has arrived."""
    started = time.perf_counter()
    for _ in range(SINGLE):
        reader.append()
        reader.wait(1)
    return SINGLE / (time.perf_counter() - started)


def _pipelined(reader: Any) -> float:
    """Return events per second if the events are appended one by one without waiting for frames."""
    started = time.perf_counter()
    for _ in range(SINGLE):
        reader.append()
    reader.wait(SINGLE)
    return SINGLE / (time.perf_counter() - started)
