"""Comparison of a log with the acknowledgements of its writers and with the events that each client received."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Ack:
    """The acknowledgement that an event is stored. ``seq`` is None if the response did not contain it."""

    sender: str
    event_id: str
    seq: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The number of faults in a log, by kind."""

    lost: int
    """Events that were acknowledged but are not in the log."""
    doubled: int
    """Events that are in the log more than once."""
    gaps: int
    """Sequence numbers that are missing or occur twice."""
    moved: int
    """Acknowledgements with another sequence number than the log."""
    inversions: int
    """Pairs of successive events of one sender that are in the log in the reverse order of their acknowledgements."""
    incomplete: int
    """Clients that miss an event, or received an event twice or out of order."""

    @property
    def is_clean(self) -> bool:
        return not any(asdict(self).values())


def examine(
    log: Sequence[tuple[int, str]], acks: Sequence[Ack], clients: Sequence[Sequence[int]] = ()
) -> Verdict:
    """Count the faults in the log of a conversation.

    ``log`` contains ``(seq, event_id)`` in any order; ``clients`` contains the sequence numbers that each received.
    """
    seqs = sorted(seq for seq, _ in log)
    ids = [event_id for _, event_id in log]
    place = {event_id: seq for seq, event_id in log}
    return Verdict(
        lost=len({ack.event_id for ack in acks} - set(ids)),
        doubled=len(ids) - len(set(ids)),
        gaps=sum(seq != number for number, seq in enumerate(seqs, start=1)),
        moved=sum(ack.seq not in (None, place.get(ack.event_id, ack.seq)) for ack in acks),
        inversions=_inversions(acks, place),
        incomplete=sum(list(client) != seqs for client in clients),
    )


def _inversions(acks: Sequence[Ack], place: dict[str, int]) -> int:
    # A repeated event is acknowledged again, and only its first acknowledgement counts.
    firsts: dict[str, dict[str, int]] = {}
    for ack in acks:
        if ack.event_id in place:
            firsts.setdefault(ack.sender, {}).setdefault(ack.event_id, place[ack.event_id])
    orders = [list(seqs.values()) for seqs in firsts.values()]
    return sum(later < earlier for order in orders for earlier, later in pairwise(order))
