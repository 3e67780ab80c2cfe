"""The audit log: the current actor, and the function that appends entries. ``audit_chains`` verifies the chains.

Services never see a request. Callers such as the middleware give ``acting`` a function that returns the actor, and
``record`` calls this function. It is called so late because DRF authenticates a request only after the middleware has
run.
"""

import getpass
import hashlib
import logging
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

from accounts.models.audit import SITE, AuditEntry, AuditGap, AuditHead
from lib import crypto
from lib.logs import request_id

log = logging.getLogger(__name__)
PURPOSE, GAP_PURPOSE = "audit-head", "audit-gap"
SECRET = re.compile(r"digest|pepper|sealed|secret|password|token$|api_key$|cookie", re.IGNORECASE)
"""The names of fields whose values are replaced by "set" or "not set"."""
TEXT_MAX = 500
"""The maximum length of a text in an entry, in characters."""
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
"""The columns that the hash of an entry covers: all except the hash."""


SERVING_COMMANDS = (
    *("run_web", "run_realtime", "run_worker", "run_conversation_manager", "run_grpc"),
    *("procrastinate", "quickstart", "runserver"),
)
"""Commands that run the server. Their actions are recorded with the actor ``system``."""


@dataclass(frozen=True)
class Actor:
    """The author of an action. ``kind`` is person, key, service_account, command, system or anonymous."""

    kind: str
    id: str = ""
    name: str = ""
    address: str = ""
    reason: str = ""


_find_actor: ContextVar[Callable[[], Actor] | None] = ContextVar("actor", default=None)


def current_actor() -> Actor:
    """Return the actor of the enclosing ``acting`` block; outside such a block, the running command or the system."""
    find_actor = _find_actor.get()
    return find_actor() if find_actor else _process_actor()


@contextmanager
def acting(find_actor: Callable[[], Actor]) -> Iterator[None]:
    """Record the actions inside the block with the actor that ``find_actor`` returns."""
    token = _find_actor.set(find_actor)
    try:
        yield
    finally:
        _find_actor.reset(token)


def _process_actor() -> Actor:
    argv = [*sys.argv, ""]  # so that argv[1] exists without a command name too
    if Path(argv[0]).name in ("manage.py", "__main__.py") and argv[1] not in SERVING_COMMANDS:
        return Actor("command", id=f"cli:{_os_user()}", name=argv[1][:60])
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
    """Append an audit entry for an action to the organization's chain or, without an organization, to the site's.

    Call this inside the transaction of the action, so that the action and the entry are stored together or not at
    all. Call it as the last step, because the head of the chain stays locked until the commit. ``before`` and
    ``after`` are visible to auditors, so the values of fields whose names match ``SECRET`` are replaced by "set" or
    "not set". Not safe to repeat: each call appends an entry.
    """
    actor = current_actor()
    chain = organization_id or SITE
    # Create the head for the first entry of a chain. A concurrent insert of the head is not an error.
    AuditHead.objects.bulk_create([AuditHead(chain=chain)], ignore_conflicts=True)
    next_entry = AuditEntry.objects.filter(
        chain=models.OuterRef("pk"), position=models.OuterRef("count") + 1
    )
    heads = AuditHead.objects.select_for_update().annotate(
        is_next_occupied=models.Exists(next_entry)
    )
    head = heads.get(pk=chain)
    entry = AuditEntry(
        id=uuid7(),
        chain=chain,
        position=_next_position(head),
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
        before=_redact(before),
        after=_redact(after),
        reason=_text(reason or actor.reason, TEXT_MAX),
        request_id=request_id.get()[:64],
        address=actor.address,
        previous=head.hash,
    )
    entry.hash = compute_hash(entry)
    entry.save(force_insert=True)
    head.count, head.hash = entry.position, entry.hash
    head.pepper_id, head.seal = crypto.digest(anchor_text(head), purpose=PURPOSE)
    head.save()
    return entry


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two dicts with the fields that differ between two states: the old values and the new values."""
    names = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    return (
        {n: before[n] for n in names if n in before},
        {n: after[n] for n in names if n in after},
    )


def compute_hash(entry: AuditEntry) -> str:
    """Return the SHA-256 (hex) of an entry's columns, which include the hash of the previous entry."""
    columns = {name: _to_json(getattr(entry, name)) for name in HASHED}
    return hashlib.sha256(orjson.dumps(columns, option=orjson.OPT_SORT_KEYS)).hexdigest()


def anchor_text(head: AuditHead) -> str:
    """Return the text that the seal of a head covers."""
    # The number of entries is part of the sealed text, so that the removal of the newest entries is detected.
    return f"{head.pk} {head.count} {head.hash}"


def gap_text(gap: AuditGap) -> str:
    """Return the text that the seal of a gap covers."""
    return f"{gap.chain} {gap.first} {gap.last}"


def _next_position(head: Any) -> int:
    """Return the position of the next entry: the first free position behind the head.

    Rows behind the head were inserted by somebody who can write to the database. Record their positions as a gap, so
    that the actions of the organization continue while ``verify_audit_chain`` reports the rows.
    """
    if not head.is_next_occupied:
        return int(head.count) + 1
    following = AuditEntry.objects.filter(
        chain=models.OuterRef("chain"), position=models.OuterRef("position") + 1
    )
    occupied = AuditEntry.objects.filter(chain=head.pk, position__gt=head.count)
    ends = occupied.filter(~models.Exists(following)).order_by("position")
    last: int = ends.values_list("position", flat=True)[0]
    gap = AuditGap(chain=head.pk, first=head.count + 1, last=last)
    gap.pepper_id, gap.seal = crypto.digest(gap_text(gap), purpose=GAP_PURPOSE)
    gap.save()
    log.error(
        "The audit chain %s has entries behind its head, at positions %d to %d, that this server did not write. "
        "Run manage.py verify_audit_chain.",
        head.pk,
        gap.first,
        gap.last,
    )
    return last + 1


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        # One fixed form, so that the hash does not depend on the time zone of the process.
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return str(value) if isinstance(value, UUID) else value


def _redact(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the values in a form that JSON can store, without secrets and without long texts."""
    return {name: _redact_value(name, value) for name, value in (values or {}).items()}


def _redact_value(name: str, value: Any) -> Any:
    if SECRET.search(name):
        return "set" if value else "not set"
    if value is None or isinstance(value, bool):
        return value
    # orjson cannot serialize integers beyond 64 bits; they become text below.
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [
            _redact_value("", item)
            for item in (sorted(value) if isinstance(value, set | frozenset) else value)
        ]
    if isinstance(value, Mapping):
        return {str(k): _redact_value(str(k), v) for k, v in value.items()}
    return _text(_to_json(value), TEXT_MAX)


def _text(value: Any, longest: int) -> str:
    """Return text that PostgreSQL and JSON can store, cut to ``longest`` characters."""
    text = str(value).replace("\0", "").encode(errors="replace").decode()
    return text if len(text) <= longest else text[: longest - 1] + "…"
