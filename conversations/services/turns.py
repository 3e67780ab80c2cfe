"""The turns of a conversation (a user's message and the events after it), and the files that a turn changed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from conversations.models import Conversation, Event
from conversations.services.exports import walk_log
from lib.problems import Problem
from lib.text_diffs import unified_diff

# The kinds of events that complete an action.
ANSWERS = ("ObservationEvent", "UserRejectObservation", "AgentErrorEvent")
# The commands of the engine's file editor that change a file.
EDITS = {"create", "str_replace", "insert", "undo_edit"}
DIFF_LENGTH = 200_000


class NoSuchTurn(Problem):
    """The conversation has no turn with the requested number."""

    status = 404
    code = "no-such-turn"
    sentence = "This conversation has no turn with that number."


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's message and the events after it, up to the next message of a user.

    ``from_seq`` is the seq of the message, and ``through_seq`` the seq of the turn's last event. ``number`` counts
    from 1. ``text`` is the beginning of the message.
    """

    number: int
    from_seq: int
    through_seq: int
    is_complete: bool
    text: str
    started_at: datetime


@dataclass(slots=True)
class FileChange:
    """The text of a file before and after a turn.

    A text is None if the file did not exist or if the log does not contain the text. ``existed`` says whether the file
    existed before the turn.
    """

    path: str
    before: str | None
    after: str | None
    existed: bool = True

    def to_wire(self) -> dict[str, Any]:
        """Return ``{"path", "status", "diff", "is_truncated"}``. The diff is None if a text is unknown.

        A diff of more than 200,000 characters is cut at the end of a line; ``is_truncated`` says so.
        """
        diff = self._diff()
        is_truncated = diff is not None and len(diff) > DIFF_LENGTH
        if diff is not None and is_truncated:
            diff = diff[: diff.rfind("\n", 0, DIFF_LENGTH) + 1]
        return {
            "path": self.path,
            "status": "UPDATED" if self.existed else "ADDED",
            "diff": diff,
            "is_truncated": is_truncated,
        }

    def _diff(self) -> str | None:
        if self.after is None or (self.before is None and self.existed):
            return None
        old_name = f"a/{self.path}" if self.existed else "/dev/null"
        return unified_diff(self.before or "", self.after, old_name, f"b/{self.path}")


@dataclass(slots=True)
class TurnChanges:
    """The files that a turn changed. ``ran_commands`` says whether commands ran, which may have changed other files."""

    turn: Turn
    files: list[FileChange] = field(default_factory=list)
    ran_commands: bool = False


def list_turns(*, conversation: Conversation) -> list[Turn]:
    """Return all turns of a conversation, oldest first.

    A turn is complete if every action up to its end has a result. The last turn is complete only if, in addition, an
    event follows the message and the agent is not busy. A message that is posted while the agent works begins a new
    turn.
    """
    kinds = ("UserMessage", "ActionEvent", *ANSWERS)
    rows = Event.objects.filter(conversation=conversation, kind__in=kinds).order_by("seq")
    starts: list[tuple[int, datetime]] = []
    # By the seq of a turn's last event: whether no action was open at that point.
    complete_at: dict[int, bool] = {}
    open_actions = 0
    for seq, kind, at in rows.values_list("seq", "kind", "received_at").iterator(1_000):
        if kind == "UserMessage":
            complete_at[seq - 1] = open_actions == 0
            starts.append((seq, at))
        else:
            # An error can also occur without an action, so keep the count from becoming negative.
            open_actions = max(0, open_actions + (1 if kind == "ActionEvent" else -1))
    is_idle = conversation.execution_status not in Conversation.BUSY and open_actions == 0
    texts = _message_texts(conversation, [seq for seq, _ in starts])
    turns = []
    for number, (seq, at) in enumerate(starts, start=1):
        is_last = number == len(starts)
        end = conversation.last_seq if is_last else starts[number][0] - 1
        is_complete = is_idle and end > seq if is_last else complete_at[end]
        turns.append(Turn(number, seq, end, is_complete, texts.get(seq, ""), at))
    return turns


def _message_texts(conversation: Conversation, seqs: list[int]) -> dict[int, str]:
    """Return a dict from seq to the first 200 characters of a message, on one line."""
    texts = {}
    for seq, payload in Event.objects.filter(conversation=conversation, seq__in=seqs).values_list(
        "seq", "payload"
    ):
        text = _parse_object(payload).get("text")
        texts[seq] = " ".join(str(text or "").split())[:200]
    return texts


def find_turn_changes(*, conversation: Conversation, number: int) -> TurnChanges:
    """Return the files that the agent's file editor changed in a turn, with their texts before and after.

    The log does not contain changes that commands made; ``ran_commands`` says whether commands ran in the turn. Raise
    ``NoSuchTurn`` if the conversation has no turn with this number.
    """
    turn = next((t for t in list_turns(conversation=conversation) if t.number == number), None)
    if turn is None:
        raise NoSuchTurn
    changes = TurnChanges(turn)
    files: dict[str, FileChange] = {}
    events = walk_log(
        conversation_id=conversation.pk, after=turn.from_seq - 1, through_seq=turn.through_seq
    )
    for observation in _observations(events):
        if observation.get("kind") == "FileEditorObservation":
            _add_edit(files, observation)
        elif observation.get("kind") in ("TerminalObservation", "ExecuteBashObservation"):
            changes.ran_commands = True
    changes.files = [files[path] for path in sorted(files)]
    return changes


def _observations(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    for event in events:
        if event.kind == "ObservationEvent":
            observation = _parse_object(event.payload).get("observation")
            if isinstance(observation, dict):
                yield observation


def _add_edit(files: dict[str, FileChange], observation: dict[str, Any]) -> None:
    """Add an edit to the changes of its file: keep the text before the first edit and the text after the last."""
    path, command = observation.get("path"), observation.get("command")
    if not isinstance(path, str) or command not in EDITS or observation.get("is_error"):
        return
    before, after = observation.get("old_content"), observation.get("new_content")
    change = files.get(path)
    if change is None:
        change = files[path] = FileChange(
            path,
            before if isinstance(before, str) else None,
            None,
            existed=observation.get("prev_exist") is not False,
        )
    change.after = after if isinstance(after, str) else None


def _parse_object(payload: str) -> dict[str, Any]:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
