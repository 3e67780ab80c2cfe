"""The verification of the audit log's hash chains, and the anchors of their heads in the site's chain.

A seal needs a key that is not in the database, but an attacker who can write to the database can put an older head back
together with its valid seal. Three places remember how far each chain was: a database trigger (``AuditMark``), entries
in the site's chain (``anchor_heads``), and the output of ``manage.py verify_audit_chain``, stored on another system.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import DataError, models

from accounts.models import AuditEntry, AuditGap, AuditHead, AuditMark, Organization
from accounts.models.audit import SITE
from accounts.services import audit
from lib import crypto

ANCHORED = "audit.anchored"
HEADS_PER_ENTRY = 200
"""The maximum number of heads in one entry of the site's chain."""
MARGIN = timedelta(minutes=10)
"""The maximum duration of a transaction: an entry can be committed that long after its ``created_at``."""
CHUNK = 1_000
UNREADABLE = (DataError, ValueError, OverflowError, TypeError, RecursionError)
"""The errors for values that nobody but an attacker writes, such as the time ``infinity`` or a number of 400 digits."""

Head = tuple[int, str]
"""The number of entries of a chain and the hash of the last entry."""


class BadPrintout(Exception):
    """The text is not the output of ``manage.py verify_audit_chain``."""


def anchor_heads() -> int:
    """Record the heads of the chains that grew since the last anchor in the site's chain; return their number.

    Safe to repeat: an anchored head is not recorded again.
    """
    anchors = AuditEntry.objects.readable().filter(chain=SITE, action=ANCHORED)
    heads = AuditHead.objects.exclude(pk=SITE).filter(count__gt=0).order_by("pk")
    recent: dict[UUID, Head] = {}
    if last := anchors.order_by("-position").first():
        grown = AuditEntry.objects.filter(created_at__gte=last.created_at - MARGIN)
        heads = heads.filter(pk__in=grown.values("chain"))
        recent = _newest_anchors(anchors.filter(created_at__gte=last.created_at - 2 * MARGIN))
    moved = [head for head in heads if recent.get(head.pk) != (head.count, head.hash)]
    for start in range(0, len(moved), HEADS_PER_ENTRY):
        texts = {str(h.pk): f"{h.count} {h.hash}" for h in moved[start : start + HEADS_PER_ENTRY]}
        audit.record(action=ANCHORED, subject_name="heads of audit chains", after={"heads": texts})
    return len(moved)


def parse_printout(text: str) -> dict[UUID, Head]:
    """Return the heads in an output of ``manage.py verify_audit_chain``. Raise ``BadPrintout`` if there are none."""
    lines = re.findall(r"^([0-9a-f-]{36}) (\d{1,18}) ([0-9a-f]{64})$", text, re.MULTILINE)
    if not lines:
        raise BadPrintout
    return {UUID(chain): (int(count), digest) for chain, count, digest in lines}


def verify_chains(
    *, chain: UUID | None = None, printed: Mapping[UUID, Head] | None = None
) -> Iterator[str]:
    """Verify one chain or all chains; yield a sentence for each fault.

    A fault is a changed, missing or inserted entry, a head that does not match or that was replaced by an older one, or
    a missing chain. ``printed`` are the heads of an earlier output of the command. Entries that are appended during
    the check are no fault. This function changes nothing.
    """
    # The heads are read last, so that they are at least as new as everything that they are compared with.
    expected = {
        "the earlier output of this command": dict(printed or {}),
        "the anchor in the site's chain": _newest_anchors(
            AuditEntry.objects.filter(chain=SITE, action=ANCHORED)
        ),
        "the database's mark": {row.pk: (row.count, "") for row in AuditMark.objects.all()},
    }
    with_entries = set(AuditEntry.objects.values_list("chain", flat=True).distinct())
    known = with_entries.union(
        Organization.objects.values_list("pk", flat=True), *expected.values()
    )
    heads = {head.pk: head for head in AuditHead.objects.all()}
    for pk in sorted(known.union(heads)) if chain is None else [chain]:
        if head := heads.get(pk):
            yield from _verify(head)
            yield from _compare(head, expected)
        elif pk in with_entries:
            yield f"{_name(pk)}: the chain has entries but no head"
        else:
            yield f"{_name(pk)}: the chain is missing"


def _newest_anchors(entries: Iterable[AuditEntry]) -> dict[UUID, Head]:
    """Return the newest anchored head of each chain. Skip values that this server did not write."""
    newest: dict[UUID, Head] = {}
    for entry in _read(entries):
        heads = entry.after.get("heads") if isinstance(entry, AuditEntry) else None
        for chain, text in heads.items() if isinstance(heads, dict) else ():
            match = re.fullmatch(r"(\d{1,18}) ([0-9a-f]{64})", str(text))
            if match and re.fullmatch(r"[0-9a-f-]{36}", chain):
                head = (int(match[1]), match[2])
                newest[UUID(chain)] = max(newest.get(UUID(chain), head), head)
    return newest


def _compare(head: AuditHead, expected: Mapping[str, Mapping[UUID, Head]]) -> Iterator[str]:
    """Yield a fault for each place that remembers a later or another head."""
    for place, heads in expected.items():
        count, digest = heads.get(head.pk, (0, ""))
        if head.count < count:
            yield (
                f"{_name(head.pk)}: the head is at entry {head.count}, but {place} was at entry {count}: an older head "
                "was put back, and the entries after it were removed"
            )
        elif digest and not _entries(head).filter(position=count, hash=digest).exists():
            yield f"{_name(head.pk)}: entry {count} is not the entry that {place} names"


def _verify(head: AuditHead) -> Iterator[str]:
    chain = _name(head.pk)
    if not _is_sealed(audit.anchor_text(head), head, audit.PURPOSE):
        yield (
            f"{chain}: the seal of the head is wrong, or its pepper {head.pepper_id!r} is no longer "
            "configured"
        )
    gaps = []
    for gap in AuditGap.objects.filter(chain=head.pk).order_by("first"):
        if _is_sealed(audit.gap_text(gap), gap, audit.GAP_PURPOSE):
            gaps.append(gap)
            yield (
                f"{chain}: entries {gap.first} to {gap.last} were inserted behind the head and do not belong to the "
                "chain"
            )
        else:
            yield f"{chain}: the gap {gap.first} to {gap.last} was not recorded by this server"
    yield from _verify_entries(head, gaps)
    # Rows that are visible now belong to the chain only if the head, read after them, has reached them.
    behind = list(
        _entries(head)
        .filter(position__gt=head.count)
        .order_by("position")
        .values_list("position", flat=True)
    )
    if behind:
        newer = AuditHead.objects.filter(pk=head.pk).values_list("count", flat=True).first() or 0
        for first, last in _ranges(p for p in behind if p > newer):
            yield f"{chain}: entries {first} to {last} were inserted behind the head"


class _Walk:
    """The state while a chain is followed: the next position, and the hash that the next entry must contain."""

    def __init__(self, gaps: list[AuditGap]) -> None:
        self.gaps = gaps
        self.following = 1
        self.previous: str | None = ""
        """None after an entry that cannot be read, whose hash is unknown."""

    def skip_gaps(self, position: int) -> int:
        for gap in self.gaps:
            if gap.first <= position <= gap.last:
                position = gap.last + 1
        return position

    def check(self, entry: Any) -> Iterator[str]:
        """Yield the faults of the next entry, without the name of the chain, and move behind it."""
        position = entry.position
        self.following = self.skip_gaps(self.following)
        if position > self.following:
            yield f"entries {self.following} to {position - 1} are missing"
        elif position < self.following:
            yield f"entry {position} ({entry.pk}) is outside the chain or a duplicate"
        elif (
            entry.previous is not None
            and self.previous is not None
            and entry.previous != self.previous
        ):
            yield f"entry {position} does not contain the hash of the entry before it"
        if isinstance(entry, Unreadable):
            yield f"entry {position} ({entry.pk}) was changed: it cannot be read"
        elif not _is_unchanged(entry):
            yield f"entry {position} ({entry.action}, {entry.pk}) was changed"
        if position >= self.following:
            self.following, self.previous = position + 1, entry.hash


def _verify_entries(head: AuditHead, gaps: list[AuditGap]) -> Iterator[str]:
    """Follow a chain from its first entry to its head."""
    chain, walk = _name(head.pk), _Walk(gaps)
    # Entries at later positions were appended after this head was read.
    for entry in _read(_entries(head).filter(position__lte=head.count)):
        if walk.skip_gaps(entry.position) == entry.position:
            for fault in walk.check(entry):
                yield f"{chain}: {fault}"
    following = walk.skip_gaps(walk.following)
    if following <= head.count:
        yield f"{chain}: entries {following} to {head.count} are missing"
    elif walk.previous is not None and walk.previous != head.hash:
        yield f"{chain}: the hash of the last entry does not match the head"


class Unreadable:
    """A row with a value that Python cannot read, for example the time ``infinity``."""

    def __init__(self, pk: Any, position: int) -> None:
        self.pk, self.position = pk, position
        self.previous = self.hash = None


def _read(entries: Any) -> Iterator[Any]:
    """Yield entries by position, in chunks; yield ``Unreadable`` for each row that Python cannot read."""
    ordered = entries.order_by("position", "pk")
    after = models.Q()
    while True:
        chunk = ordered.filter(after)[:CHUNK]
        keys = list(chunk.values_list("pk", "position"))
        if not keys:
            return
        try:
            yield from list(chunk)
        except UNREADABLE:
            yield from (_read_row(entries, *key) for key in keys)
        pk, position = keys[-1]
        after = models.Q(position__gt=position) | models.Q(position=position, pk__gt=pk)


def _read_row(entries: Any, pk: Any, position: int) -> Any:
    try:
        return entries.get(pk=pk)
    except (*UNREADABLE, AuditEntry.DoesNotExist):
        return Unreadable(pk, position)


def _is_unchanged(entry: AuditEntry) -> bool:
    try:
        return audit.compute_hash(entry) == entry.hash
    except UNREADABLE:
        return False


def _is_sealed(text: str, row: AuditHead | AuditGap, purpose: str) -> bool:
    try:
        return crypto.matches(text, purpose=purpose, pepper_id=row.pepper_id, expected=row.seal)
    except TypeError:  # compare_digest refuses texts with characters outside ASCII
        return False


def _entries(head: AuditHead) -> Any:
    return AuditEntry.objects.filter(chain=head.pk)


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield ``(first, last)`` of each run of consecutive numbers; ``numbers`` are in ascending order."""
    first = last = None
    for number in numbers:
        if first is None or last is None:
            first = last = number
        elif number > last + 1:
            yield first, last
            first = last = number
        else:
            last = number
    if first is not None and last is not None:
        yield first, last


def _name(chain: UUID) -> str:
    return "site" if chain == SITE else str(chain)
