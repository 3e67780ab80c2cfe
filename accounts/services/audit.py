"""The audit log: who acts, entries written in the transaction of the act, and the check of the chains.

Services never see a request. The edge (a request, a command, a job) passes ``acting`` a function that finds the
actor; ``record`` calls it when the act is recorded, because the API authenticates after the middleware has run.
"""

import getpass
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from django.db import models, transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models.audit import SITE, AuditEntry, AuditHead
from lib import crypto
from lib.logs import request_id

PURPOSE = "audit-head"
SECRET = re.compile(r"digest|pepper|sealed|secret|password|token$|api_key$|cookie", re.IGNORECASE)
TEXT_MAX = 500
HASHED = (
    "id",
    "chain",
    "position",
    "created_at",
    "action",
    "actor_kind",
    "actor_id",
    "actor_name",
    "subject_kind",
    "subject_id",
    "subject_name",
    "before",
    "after",
    "reason",
    "request_id",
    "address",
    "previous",
)


SERVING_COMMANDS = (
    *("run_web", "run_realtime", "run_worker", "run_conversation_manager", "run_grpc"),
    *("procrastinate", "quickstart", "runserver"),
)
"""Commands whose own acts are those of the system."""


@dataclass(frozen=True)
class Actor:
    """The one who acts; ``kind`` is one of person, key, service_account, command, system, anonymous."""

    kind: str
    id: str = ""
    name: str = ""
    address: str = ""
    reason: str = ""


_find: ContextVar[Callable[[], Actor] | None] = ContextVar("actor", default=None)


def current_actor() -> Actor:
    """Return the actor that the edge finds, else the command that runs, else the system."""
    find = _find.get()
    return find() if find else _of_process()


@contextmanager
def acting(find: Callable[[], Actor]) -> Iterator[None]:
    """Find the actor by ``find`` for the length of the block."""
    token = _find.set(find)
    try:
        yield
    finally:
        _find.reset(token)


def _of_process() -> Actor:
    words = [*sys.argv, ""]
    if Path(words[0]).name in ("manage.py", "__main__.py") and words[1] not in SERVING_COMMANDS:
        return Actor("command", id=f"cli:{_os_user()}", name=words[1][:60])
    return Actor("system", id="system", name=os.environ.get("OH_ROLE", ""))


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in passwd
        return str(os.getuid())


@transaction.atomic
def record(
    *,
    action: str,
    organization_id: UUID | None = None,
    subject: models.Model | None = None,
    subject_name: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str = "",
) -> AuditEntry:
    """Append an act to its organization's chain (the site's without one); call it where the act is done.

    It joins the caller's transaction: the act and its entry are kept together or not at all. Call it as the
    last step, for the chain's head stays locked until the commit. ``before`` and ``after`` are shown to
    auditors; values of fields named like secrets are replaced by "set". Each call is another entry.
    """
    actor = current_actor()
    chain = organization_id or SITE
    AuditHead.objects.bulk_create([AuditHead(chain=chain)], ignore_conflicts=True)
    head = AuditHead.objects.select_for_update().get(pk=chain)
    entry = AuditEntry(
        id=uuid7(),
        chain=chain,
        position=head.count + 1,
        created_at=timezone.now(),
        action=action,
        actor_kind=actor.kind,
        actor_id=_text(actor.id, 64),
        actor_name=_text(actor.name, 254),
        subject_kind=subject._meta.model_name or "" if subject else "",  # noqa: SLF001
        subject_id=str(subject.pk) if subject else "",
        subject_name=_text(
            str(subject) if subject and subject_name is None else subject_name or "", 254
        ),
        before=_shown(before),
        after=_shown(after),
        reason=_text(reason or actor.reason, TEXT_MAX),
        request_id=request_id.get()[:64],
        address=actor.address,
        previous=head.hash,
    )
    entry.hash = hash_of(entry)
    entry.save(force_insert=True)
    head.count, head.hash = entry.position, entry.hash
    head.pepper_id, head.seal = crypto.digest(_anchor(head), purpose=PURPOSE)
    head.save()
    return entry


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two sides of what differs between two states, as ``record`` takes them."""
    names = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    return (
        {n: before[n] for n in names if n in before},
        {n: after[n] for n in names if n in after},
    )


def hash_of(entry: AuditEntry) -> str:
    """SHA-256 over an entry's columns and the hash before it."""
    columns = {name: _plain(getattr(entry, name)) for name in HASHED}
    return hashlib.sha256(orjson.dumps(columns, option=orjson.OPT_SORT_KEYS)).hexdigest()


def verify_chains(*, chain: UUID | None = None) -> Iterator[str]:
    """A sentence for each fault of the chains: a row changed, removed, put in, or a head that does not fit.

    Reads the rows in order, whatever their number; changes nothing. What is appended meanwhile is not read.
    """
    heads = AuditHead.objects.order_by("pk")
    chains = AuditEntry.objects.values_list("chain", flat=True).distinct()
    if chain is not None:
        heads, chains = heads.filter(pk=chain), chains.filter(chain=chain)
    known = list(heads)
    for missing in sorted(set(chains) - {head.pk for head in known}):
        yield f"{missing}: the chain has rows and no head"
    for head in known:
        yield from _verify(head)


def _verify(head: AuditHead) -> Iterator[str]:
    place = "site" if head.pk == SITE else str(head.pk)
    if not crypto.matches(
        _anchor(head), purpose=PURPOSE, pepper_id=head.pepper_id, expected=head.seal
    ):
        yield f"{place}: the head is not sealed by this server (or its pepper {head.pepper_id!r} is gone)"
    position, previous = 0, ""
    rows = AuditEntry.objects.filter(chain=head.pk, position__lte=head.count).order_by("position")
    for entry in rows.iterator(chunk_size=1_000):
        if entry.position != position + 1:
            yield f"{place}: rows {position + 1} to {entry.position - 1} are missing"
        elif entry.previous != previous:
            yield f"{place}: row {entry.position} does not follow the row before it"
        if hash_of(entry) != entry.hash:
            yield f"{place}: row {entry.position} ({entry.action}, {entry.id}) was changed"
        position, previous = entry.position, entry.hash
    if position < head.count:
        yield f"{place}: rows {position + 1} to {head.count} are missing"
    elif previous != head.hash:
        yield f"{place}: the last row is not the one that the head names"


def _anchor(head: AuditHead) -> str:
    return f"{head.pk} {head.count} {head.hash}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return str(value) if isinstance(value, UUID) else value


def _shown(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: _safe(name, value) for name, value in (values or {}).items()}


def _safe(name: str, value: Any) -> Any:
    if SECRET.search(name):
        return "set" if value else "not set"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [
            _safe("", item)
            for item in (sorted(value) if isinstance(value, set | frozenset) else value)
        ]
    if isinstance(value, Mapping):
        return {str(k): _safe(str(k), v) for k, v in value.items()}
    return _text(_plain(value), TEXT_MAX)


def _text(value: Any, longest: int) -> str:
    """Text that PostgreSQL and JSON can hold, bounded."""
    text = str(value).replace("\0", "").encode(errors="replace").decode()
    return text if len(text) <= longest else text[: longest - 1] + "…"
