"""Judges a log by what was acknowledged and by what each client was sent."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Ack:
    """Somebody was told that an event is kept; ``seq`` where the answer named its place."""

    sender: str
    event_id: str
    seq: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a log; nothing, when all are 0."""

    lost: int
    """Acknowledged, and not in the log."""
    doubled: int
    """Events that the log has more than once."""
    gaps: int
    """Numbers that are missing, or given twice."""
    moved: int
    """Acknowledged at another place than the log has it."""
    inversions: int
    """Pairs of one sender in the order other than that in which they were acknowledged."""
    incomplete: int
    """Clients that lack an event, got one twice, or out of order."""

    @property
    def is_clean(self) -> bool:
        return not any(asdict(self).values())


def examine(
    log: Sequence[tuple[int, str]], acks: Sequence[Ack], clients: Sequence[Sequence[int]] = ()
) -> Verdict:
    """Judge the log of one conversation, given as ``(seq, event_id)`` in any order."""
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
    """A repeat is acknowledged again: the first time counts."""
    firsts: dict[str, dict[str, int]] = {}
    for ack in acks:
        if ack.event_id in place:
            firsts.setdefault(ack.sender, {}).setdefault(ack.event_id, place[ack.event_id])
    orders = [list(found.values()) for found in firsts.values()]
    return sum(later < earlier for order in orders for earlier, later in pairwise(order))
