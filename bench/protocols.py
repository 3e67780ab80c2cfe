"""The three protocols of sockets (V0, V1 and native), and a log of actions and observations of about 1 KB for them."""

import json
from dataclasses import dataclass
from uuid import UUID

from bench import logs
from conversations import services
from conversations.engine.payloads import Durable, parse_event

LINES = logs.LISTING[:700]
HEAD = {"timestamp": "2026-11-29T10:00:00.123456", "tool_name": "terminal", "tool_call_id": "c1"}


@dataclass(frozen=True)
class Protocol:
    """A protocol of sockets. ``path`` has the fields ``pk`` and ``token``.

    ``mark`` begins each frame with an event of the log, and ``joined`` is in the last frame that a new client receives
    if the log consists of the events 0 to 3. ``hello`` is the text that a client sends after the handshake.
    """

    name: str
    path: str
    mark: str
    joined: str
    hello: str = ""

    def path_of(self, pk: UUID, header: str, *, after: int = 0) -> str:
        """Return the path of a conversation's socket for the API key in a header line."""
        return self.path.format(pk=pk, token=header.rsplit(maxsplit=1)[-1], after=after)


V0 = Protocol(
    "V0",
    "/socket.io/?EIO=4&transport=websocket&conversation_id={pk}&latest_event_id={after}"
    "&session_api_key={token}",
    '42["oh_event",{"id":',
    "agent_state_changed",
    hello="40",
)
V1 = Protocol(
    "V1",
    "/sockets/events/{pk}?resend_all=true&session_api_key={token}",
    '{"id":"e',
    '"e3"',
)
NATIVE = Protocol(
    "native", "/ws/v1/conversations/{pk}?after={after}", '{"type":"event"', '"status"'
)
ALL = (V0, V1, NATIVE)


def append(pk: UUID, first: int, count: int) -> None:
    """Store actions and their observations, in turn, in one transaction, and send a nudge to their readers."""
    frames = [Durable(seq, parse_event(_raw(seq), seq=seq)) for seq in range(first, first + count)]
    services.ingest_events(conversation_id=pk, generation=1, frames=frames)


def _raw(seq: int) -> bytes:
    """Return an engine's event as the engine's socket sends it: an action if ``seq`` is even, else its observation."""
    body: dict[str, object]
    if seq % 2:
        content = [{"type": "text", "text": LINES}]
        observation = {"kind": "TerminalObservation", "content": content}
        observation["metadata"] = {"exit_code": 0}
        more = {"action_id": f"e{seq - 1}", "observation": observation}
        body = {"kind": "ObservationEvent", "source": "environment"} | more
    else:
        action = {"kind": "TerminalAction", "command": LINES[:300], "timeout": 30.0}
        thought = [{"type": "text", "text": LINES[:350]}]
        body = {"kind": "ActionEvent", "source": "agent", "thought": thought, "action": action}
    return json.dumps({"id": f"e{seq}"} | HEAD | body, separators=(",", ":")).encode()
