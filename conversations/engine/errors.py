"""The errors of calls to a sandbox's engine."""


class EngineUnreachable(Exception):
    """The engine did not respond. ``maybe_done`` says whether the engine may have carried out the request anyway."""

    def __init__(self, detail: str, *, maybe_done: bool = False) -> None:
        self.detail = detail
        self.maybe_done = maybe_done
        super().__init__(detail)


class EngineTimedOut(EngineUnreachable):
    """The engine accepted the connection, or was about to, but did not respond in time."""


class FrameTooLarge(EngineUnreachable):
    """The next event is larger than a socket frame may be (4 MiB in the engine).

    Read the event with ``EngineClient.iter_events``: a new connection from the same index on would fail again.
    """


class EngineRefused(Exception):
    """The engine responded with an error. ``status`` is the HTTP status or the WebSocket close code."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        self.detail = detail
        super().__init__(f"{status}: {detail}")


class EngineMissing(EngineRefused):
    """The engine responded with 404. A single 404 does not prove that the resource was deleted."""

    def __init__(self, detail: str = "not found") -> None:
        super().__init__(404, detail)
