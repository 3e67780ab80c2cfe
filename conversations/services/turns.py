"""Turns: what a person said and all that followed, and which files it changed, as far as the log knows."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from conversations.models import BUSY_STATUSES, Conversation, Event
from conversations.services.exports import walk_log
from lib.problems import Problem

ANSWERS = ("ObservationEvent", "UserRejectObservation", "AgentErrorEvent")
EDITS = {"create", "str_replace", "insert", "undo_edit"}
DIFF_LENGTH = 200_000


class NoSuchTurn(Problem):
    """The conversation has no turn of that number."""

    status = 404
    code = "no-such-turn"
    sentence = "This conversation has no turn of that number."


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch of the log from a user's message to the next; both ends belong to it. Counted from 1."""

    number: int
    from_seq: int
    through_seq: int
    is_complete: bool
    text: str
    started_at: datetime


@dataclass(slots=True)
class FileChange:
    """One file before and after a turn; None where it did not exist or the log does not say."""

    path: str
    before: str | None
    after: str | None
    was_there: bool = True

    def to_wire(self) -> dict[str, Any]:
        """The change with a unified diff, cut at 200,000 characters; None where a side is unknown."""
        return {
            "path": self.path,
            "status": "UPDATED" if self.was_there else "ADDED",
            "diff": self._diff(),
        }

    def _diff(self) -> str | None:
        if self.after is None or (self.before is None and self.was_there):
            return None
        lines = difflib.unified_diff(
            (self.before or "").splitlines(),
            self.after.splitlines(),
            f"a/{self.path}" if self.was_there else "/dev/null",
            f"b/{self.path}",
            lineterm="",
        )
        return "\n".join(lines)[:DIFF_LENGTH]


@dataclass(slots=True)
class TurnChanges:
    """What a turn did to files. ``ran_commands``: it ran commands, which may have changed more."""

    turn: Turn
    files: list[FileChange] = field(default_factory=list)
    ran_commands: bool = False


def turns_of(*, conversation: Conversation) -> list[Turn]:
    """All turns, oldest first. The last is complete once the agent rests and every action has its result.

    Messages that were posted while the agent worked begin turns of their own, which the turn before it is not
    complete without: see ``is_complete``.
    """
    kinds = ("UserMessage", "ActionEvent", *ANSWERS)
    rows = Event.objects.filter(conversation=conversation, kind__in=kinds).order_by("seq")
    starts: list[tuple[int, datetime]] = []
    whole_at: dict[int, bool] = {}
    open_actions = 0
    for seq, kind, at in rows.values_list("seq", "kind", "received_at").iterator(1_000):
        if kind == "UserMessage":
            whole_at[seq - 1] = open_actions == 0
            starts.append((seq, at))
        else:
            open_actions = max(0, open_actions + (1 if kind == "ActionEvent" else -1))
    rests = conversation.execution_status not in BUSY_STATUSES and open_actions == 0
    texts = _texts(conversation, [seq for seq, _ in starts])
    turns = []
    for number, (seq, at) in enumerate(starts, start=1):
        is_last = number == len(starts)
        end = conversation.last_seq if is_last else starts[number][0] - 1
        whole = rests and end > seq if is_last else whole_at[end]
        turns.append(Turn(number, seq, end, whole, texts.get(seq, ""), at))
    return turns


def _texts(conversation: Conversation, seqs: list[int]) -> dict[int, str]:
    found = {}
    for seq, payload in Event.objects.filter(conversation=conversation, seq__in=seqs).values_list(
        "seq", "payload"
    ):
        text = _object(payload).get("text")
        found[seq] = " ".join(str(text or "").split())[:200]
    return found


def changes_of_turn(*, conversation: Conversation, number: int) -> TurnChanges:
    """Which files a turn changed by the agent's file editor, with their diffs. Raises ``NoSuchTurn``.

    The log holds what the editor did, whole texts before and after. What commands did to files it does not
    know: ``ran_commands`` says that there may be more, and the workspace's git that there is.
    """
    turn = next((t for t in turns_of(conversation=conversation) if t.number == number), None)
    if turn is None:
        raise NoSuchTurn
    changes = TurnChanges(turn)
    files: dict[str, FileChange] = {}
    events = walk_log(
        conversation_id=conversation.pk, after=turn.from_seq - 1, through_seq=turn.through_seq
    )
    for observation in _observations(events):
        if observation.get("kind") == "FileEditorObservation":
            _take_edit(files, observation)
        elif observation.get("kind") in ("TerminalObservation", "ExecuteBashObservation"):
            changes.ran_commands = True
    changes.files = [files[path] for path in sorted(files)]
    return changes


def _observations(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    for event in events:
        if event.kind == "ObservationEvent":
            observation = _object(event.payload).get("observation")
            if isinstance(observation, dict):
                yield observation


def _take_edit(files: dict[str, FileChange], observation: dict[str, Any]) -> None:
    path, command = observation.get("path"), observation.get("command")
    if not isinstance(path, str) or command not in EDITS or observation.get("is_error"):
        return
    before, after = observation.get("old_content"), observation.get("new_content")
    known = files.get(path)
    if known is None:
        known = files[path] = FileChange(
            path,
            before if isinstance(before, str) else None,
            None,
            was_there=observation.get("prev_exist") is not False,
        )
    known.after = after if isinstance(after, str) else None


def _object(payload: str) -> dict[str, Any]:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
