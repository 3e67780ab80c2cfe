"""The finding of a check, and the description of a check."""

from collections.abc import Callable
from dataclasses import dataclass

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


@dataclass(frozen=True)
class Finding:
    """The result of one check, without the name of the check.

    ``sentence`` says what was found, and ``remedy`` says what to do about it. If nothing is wrong, the remedy is an
    offer, such as to use a model server that was found. ``command`` contains the arguments of the ``manage.py`` command
    that the remedy names, and ``page`` the name of the URL of the page where the remedy is done or the cause is shown.
    They are empty if there is nothing of this kind. ``ends_alone`` marks a warning that needs nobody, such as an
    installation in progress.
    """

    state: str
    sentence: str
    remedy: str = ""
    command: str = ""
    page: str = ""
    ends_alone: bool = False


def ok(sentence: str, offer: str = "", *, page: str = "") -> Finding:
    """Return the finding that nothing has to be done. ``offer`` says what somebody may do."""
    return Finding(OK, sentence, offer, page=page)


def warning(
    sentence: str,
    remedy: str = "",
    *,
    command: str = "",
    page: str = "",
    ends_alone: bool = False,
) -> Finding:
    """Return the finding that the server works, but somebody should act, or wait."""
    return Finding(WARNING, sentence, remedy, command, page, ends_alone)


def failed(sentence: str, remedy: str = "", *, command: str = "", page: str = "") -> Finding:
    """Return the finding that a part of the server does not work until somebody acts."""
    return Finding(FAILED, sentence, remedy, command, page)


@dataclass(frozen=True)
class Probe:
    """A check that can be run. ``id`` never changes, so that programs can compare reports of different versions.

    ``in_server`` says whether a running server runs the check too: the checks of Python and of the settings would only
    repeat what the start of the server has proven.
    """

    id: str
    name: str
    run: Callable[[], Finding]
    needs_database: bool = False
    in_server: bool = True


@dataclass(frozen=True)
class Check:
    """A check that was run: one line of the report."""

    id: str
    name: str
    finding: Finding

    @property
    def state(self) -> str:
        return self.finding.state

    @property
    def detail(self) -> str:
        """The sentence of the finding with its remedy."""
        return f"{self.finding.sentence} {self.finding.remedy}".rstrip()

    @property
    def needs_action(self) -> bool:
        """Whether an administrator should do something."""
        return self.state in (WARNING, FAILED) and not self.finding.ends_alone
