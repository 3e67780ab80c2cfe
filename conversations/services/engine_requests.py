"""Limits of the users' requests that wait for sandboxes at the same time in one web process."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from conversations.models import Sandbox
from lib.blocking import announce_wait
from lib.problems import Problem

PER_PROCESS = 24
"""Not more than the additional threads of a web process (``openhands_site.serving.threads``)."""
PER_ORGANIZATION = 12
PER_SANDBOX = 6
RETRY_SECONDS = 3

_lock = threading.Lock()
_waiting: Counter[UUID] = Counter()


class SandboxBusy(Problem):
    """Too many requests wait for this sandbox, for the sandboxes of its organization, or for all sandboxes."""

    status = 503
    code = "sandbox-busy"
    sentence = (
        "Too many requests are still waiting for an answer from the sandbox. Wait a few seconds and try again. "
        "If this does not help, stop the sandbox and start it again."
    )


@contextmanager
def wait_for_sandbox(sandbox: Sandbox) -> Iterator[None]:
    """Count the block as a request that waits for a sandbox, and let the web process serve another request meanwhile.

    Raise ``SandboxBusy`` if too many requests wait. Without this limit, a few sandboxes that do not answer would occupy
    every thread of the web process.
    """
    with _lock:
        if (
            # Each request is counted twice, for its organization and for its sandbox.
            _waiting.total() >= PER_PROCESS * 2
            or _waiting[sandbox.organization_id] >= PER_ORGANIZATION
            or _waiting[sandbox.pk] >= PER_SANDBOX
        ):
            raise SandboxBusy(retry_after=RETRY_SECONDS)
        _waiting.update((sandbox.organization_id, sandbox.pk))
    try:
        announce_wait()
        yield
    finally:
        with _lock:
            _waiting.subtract((sandbox.organization_id, sandbox.pk))
            for key in (sandbox.organization_id, sandbox.pk):
                if not _waiting[key]:
                    del _waiting[key]
