"""A recorder of the frames that V0 and V1 sockets receive, which compares them with the files in ``recordings/``.

A recording is a file with one line of JSON for each frame, in the order in which a socket received it. Each line names
the step of the test and the socket. A frame is stored as the text on the wire, including the order of its keys and its
spaces. Only values that differ between two runs are replaced: times, random ids and the ids of the test's own rows.
``{"again": [first, last]}`` stands for the frames of earlier lines of the file, counted from 1. With ``RECORD=1`` in the environment the tests write the files instead of comparing them.
"""

import contextlib
import hashlib
import json
import os
import re
import selectors
import socket
import struct
import time
from pathlib import Path

from conversations import services
from tests.odd_traffic.raw import BYE, PONG, frame, upgrade

FOLDER = Path(__file__).parent / "recordings"
IS_RECORDING = bool(os.environ.get("RECORD"))
SECONDS = 40
"""The longest wait for an expected frame."""
QUIET_SECONDS = 1.5 if IS_RECORDING else 0.5
"""The time without a frame after which a socket has received everything."""
LONGEST = 700
"""Longer frames are stored as their beginning, their length and their SHA-256."""
FILLER = '"filler-'
"""Consecutive frames with this text are stored as their number and one SHA-256."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?(\+00:00|Z)?")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SID = re.compile(r'("sid":)"[A-Za-z0-9_-]{20}"')
FIXED_YEAR = "2020-"
"""Times of this year come from the tests and are compared unchanged."""


class Client:
    """A raw WebSocket client that keeps every frame of data as it arrived.

    It responds to the pings of WebSocket and of Engine.IO, which depend on the time and are not kept. A close frame is
    kept as ``{"close": [code, reason]}``, a lost connection without one as ``{"close": None}``, and the status line of a
    refused handshake as ``{"refused": line}``.
    """

    def __init__(self, port, path, *, receive_buffer=0):
        self.received = []
        self.is_closed = False
        self._buffer = b""
        self._link = socket.socket()
        if receive_buffer:  # before `connect`, or the system ignores it
            self._link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._link.settimeout(SECONDS)
        self._link.connect(("127.0.0.1", port))
        self._link.sendall(upgrade(path.encode()))
        while b"\r\n\r\n" not in self._buffer:
            assert self._fill(SECONDS), "the server did not answer the handshake"
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            self.received.append({"refused": head.partition(b"\r\n")[0].decode()})
            self.is_closed = True

    def send(self, text):
        self._link.sendall(frame(text))

    def leave(self):
        """Close the connection as a client does."""
        with contextlib.suppress(OSError):  # the server has closed it
            if not self.is_closed:
                self._link.sendall(BYE)
        self._link.close()

    def read(self, seconds):
        """Append the next frame to ``received`` and return it, or return None if none arrives in time."""
        deadline = time.monotonic() + seconds
        while not self.is_closed:
            if (found := self._take()) is not None:
                if (kept := self._keep(*found)) is not None:
                    self.received.append(kept)
                    return kept
            elif not self._fill(deadline - time.monotonic()):
                return None
        return None

    def _fill(self, seconds):
        with selectors.DefaultSelector() as selector:
            selector.register(self._link, selectors.EVENT_READ)
            if not selector.select(max(0, seconds)):
                return False
        try:
            piece = self._link.recv(262_144)
        except ConnectionResetError:
            piece = b""
        self._buffer += piece
        if not piece:
            self._buffer += frame(b"", 8, is_masked=False)  # read as a lost connection
        return True

    def _take(self):
        """Remove a complete frame from the buffer. Return its first byte and its payload, or None."""
        data = self._buffer
        if len(data) < 2:
            return None
        size, start = data[1], 2
        assert size < 128, "a frame of the server has a mask"
        if size == 126:
            start = 4
            size = struct.unpack(">H", data[2:4])[0] if len(data) >= 4 else len(data)
        elif size == 127:
            start = 10
            size = struct.unpack(">Q", data[2:10])[0] if len(data) >= 10 else len(data)
        if len(data) < start + size:
            return None
        self._buffer = data[start + size :]
        return data[0], data[start : start + size]

    def _keep(self, first, payload):
        if first == 0x89:
            self._link.sendall(frame(payload, PONG))
            return None
        if first == 0x88:
            self.is_closed = True
            code = int.from_bytes(payload[:2], "big")
            return {"close": [code, payload[2:].decode()] if payload else None}
        assert first == 0x81, f"the server sent a frame that is not one whole text: {first:#x}"
        text = payload.decode()
        if text == "2":
            self.send("3")
            return None
        return text


class Recorder:
    """The sockets of one test, and the frames that they are expected to receive."""

    def __init__(self, name, port):
        self.path = FOLDER / f"{re.sub('[^a-z0-9_]+', '-', name.lower()).strip('-')}.jsonl"
        self.port = port
        self.names = {}
        """The values that are replaced, with their names."""
        self._clients = {}
        self._lines = []
        self._expected = []
        if not IS_RECORDING:
            self._expected = _expand(self.path.read_text())

    def name(self, value, name):
        """Replace a value of this run, such as an id, by a name."""
        self.names[str(value)] = f"<{name}>"
        if hasattr(value, "hex"):
            self.names[value.hex] = f"<{name} in hex>"

    def open_v0(
        self, label, conversation, user, *, hello="40", key=None, receive_buffer=0, **query
    ):
        """Open a V0 socket and send its connect packet. ``label`` names the socket in the recording."""
        query = {"conversation_id": conversation.pk.hex} | query
        query["session_api_key"] = key or services.conversation_key(
            conversation=conversation, user=user
        )
        path = "/socket.io/?EIO=4&transport=websocket&" + _join(query)
        client = self._open(label, path, receive_buffer)
        if hello and not client.is_closed:
            client.send(hello)
        return client

    def open_v1(self, label, conversation, user, *, key=None, receive_buffer=0, **query):
        """Open a V1 socket. ``label`` names the socket in the recording."""
        query["session_api_key"] = key or services.conversation_key(
            conversation=conversation, user=user
        )
        path = f"/sockets/events/{conversation.pk}?{_join(query)}"
        return self._open(label, path, receive_buffer)

    def _open(self, label, path, receive_buffer):
        client = self._clients[label] = Client(self.port, path, receive_buffer=receive_buffer)
        return client

    def close(self):
        for client in self._clients.values():
            client.leave()

    # --- Comparing ---

    def collect(self, step, *labels, change=lambda frames: frames):
        """Read the frames of a step and compare them with the recording.

        ``labels`` names the sockets to read, by default all. The frames are read until their expected number has
        arrived; frames too many appear in the next step, or in ``finish``. ``change`` maps a list of frames before they
        are compared.
        """
        quiet = QUIET_SECONDS
        for label in labels or list(self._clients):
            client = self._clients[label]
            expected = [line for line in self._expected if line["step"] == step]
            expected = [line for line in expected if line["socket"] == label]
            count = sum(line.get("count", 1) for line in expected)
            while IS_RECORDING or len(client.received) < count:
                if client.read(quiet if IS_RECORDING else SECONDS) is None:
                    break
            quiet = QUIET_SECONDS / 5  # the other sockets have received their frames meanwhile
            sent = client.received if IS_RECORDING else client.received[:count]
            client.received = client.received[len(sent) :]
            self._compare(step, label, change(sent), expected)

    def finish(self):
        """Check that no socket has received more frames than were collected; write the file of a recording."""
        if IS_RECORDING:
            self.path.write_text(_shorten(self._lines))
        else:
            for label, client in self._clients.items():
                while client.read(QUIET_SECONDS) is not None:
                    pass
                assert client.received == [], f"{label} received more frames than were recorded"
            compared = {(line["step"], line["socket"]) for line in self._lines}
            left = [
                line for line in self._expected if (line["step"], line["socket"]) not in compared
            ]
            assert left == [], "the test did not reach these recorded frames"

    def _compare(self, step, label, frames, expected):
        lines = [{"step": step, "socket": label} | part for part in self._describe(frames)]
        if not IS_RECORDING:
            assert lines == expected
        self._lines += lines

    def _describe(self, frames):
        """Return the parts of the lines that describe frames."""
        texts = [self._normalize(each) if isinstance(each, str) else each for each in frames]
        parts = []
        while texts:
            text = texts.pop(0)
            if not isinstance(text, str):
                parts.append(text)
            elif FILLER in text:
                run = [text]
                while texts and FILLER in texts[0]:
                    run.append(texts.pop(0))
                parts.append({"count": len(run), "sha256": _digest("\n".join(run))})
            elif len(text) > LONGEST:
                about = {"length": len(text), "sha256": _digest(text)}
                parts.append({"frame": text[:250], **about})
            else:
                parts.append({"frame": text})
        return parts

    def _normalize(self, text):
        for value, name in self.names.items():
            text = text.replace(value, name)
        text = _SID.sub(r'\1"<sid>"', text)
        text = _UUID.sub("<uuid>", text)
        return _TIME.sub(_name_time, text)


def _shorten(lines):
    """Return the text of a recording. Runs of frames that earlier lines contain become one line."""
    texts = [
        json.dumps({k: v for k, v in line.items() if k not in ("step", "socket")}) for line in lines
    ]
    written, places, at = [], {}, 0
    while at < len(lines):
        line = lines[at]
        first, count = places.get(texts[at]), 0
        if first is not None:
            while (
                at + count < len(lines)
                and (line["step"], line["socket"])
                == (lines[at + count]["step"], lines[at + count]["socket"])
                and places.get(texts[at + count]) == first + count
            ):
                count += 1
            part = {"again": [first, first + count - 1]}
            if count > 1 or len(texts[at]) > 60:
                written.append({"step": line["step"], "socket": line["socket"]} | part)
                at += count
                continue
        written.append(line)
        places.setdefault(texts[at], len(written))
        at += 1
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written)


def _expand(text):
    """Return the lines of a recording, each with its own frame."""
    written = [json.loads(line) for line in text.splitlines()]
    lines = []
    for line in written:
        first, last = line.get("again", (0, 0))
        where = {"step": line["step"], "socket": line["socket"]}
        lines += [each | where for each in written[first - 1 : last]] if first else [line]
    return lines


def _name_time(match):
    if match[0].startswith(FIXED_YEAR):
        return match[0]
    return f"<now{', 6 digits' if match[1] else ''}{', ' + match[2] if match[2] else ''}>"


def _join(query):
    return "&".join(f"{name}={value}" for name, value in query.items())


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()
