"""Waits of a thread that serves a request, announced to the pool that owns the thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_thread = threading.local()


@contextmanager
def serve_thread(on_wait: Callable[[], None]) -> Iterator[None]:
    """Call ``on_wait`` when the calling thread first enters ``announce_wait`` in the block."""
    _thread.on_wait = on_wait
    try:
        yield
    finally:
        _thread.on_wait = None


def announce_wait() -> None:
    """Announce that the calling thread may now wait for a part that can hang, such as a user's sandbox.

    A pool of request threads then lets another request run meanwhile. In all other threads nothing happens.
    """
    if (on_wait := getattr(_thread, "on_wait", None)) is not None:
        _thread.on_wait = None
        on_wait()
