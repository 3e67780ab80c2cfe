"""The tasks of the demo model, and orders for them with the parameters of a request."""

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from billing.gateway.demo import vocabulary
from billing.gateway.demo.reading import Reading
from billing.gateway.demo.workbench import Bench, Text
from billing.gateway.script import Step

NUMBER = r"(?:(?<![a-z0-9_.,])(?<!(?<!\d)-)(?P<{name}>\d{{1,9}})(?!\d|[.,]\d|[a-z_]))"

COMMON = frozenset(
    {
        "write",
        "create",
        "please",
        "program",
        "python",
        "script",
        "print",
        "file",
        "files",
        "save",
        "first",
    }
    | {
        "numbers",
        "number",
        "show",
        "tell",
        "could",
        "would",
        "output",
        "tests",
        "function",
        "string",
    }
    | {"lines", "words", "summarize", "explain", "fizzbuzz", "fibonacci"}
    | {"analyse", "analyze", "summarise", "organise", "organize"}
)
"""Frequent words to which a mistyped word may be corrected in a request for any task."""


@dataclass(frozen=True, slots=True)
class Order:
    """A task with the parameters of a request.

    ``output`` is the name of the file to write, or None if the request names none.
    """

    task: "Task"
    values: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    output: str | None = None
    texts: tuple[str, ...] = ()
    codes: tuple[tuple[str, str], ...] = ()
    is_run: bool = True
    reading: Reading = field(default_factory=Reading)


class Declined(Exception):
    """A request that is not carried out.

    ``reason`` says why, in both languages, or is None if no task fits. ``nearest`` is the key of the task that fits
    best, or an empty text. ``plain`` is the order without the parts that are not understood, which the user may accept.
    """

    def __init__(
        self, reason: Text | None = None, *, nearest: str = "", plain: Order | None = None
    ) -> None:
        super().__init__(reason.english if reason else "")
        self.reason = reason
        self.nearest = nearest
        self.plain = plain


@dataclass(frozen=True)
class Task:
    """A task of the catalogue.

    ``needs`` are patterns that must all occur; ``words`` is a pattern of further words of the task. ``parameters`` are
    patterns with named groups; "{n}", "{m}" and "{low}" in them stand for numbers. ``outputs`` and ``inputs`` are the
    extensions of the files that it writes and reads. A file called like ``stems`` names the task, if the request
    creates the file.
    ``check`` completes the order or raises ``Declined``. ``carry_out`` yields the steps and returns the report.
    """

    key: str
    title: Text
    needs: tuple[str, ...]
    carry_out: Callable[[Order, Bench], Generator[Step, Any, str]]
    words: str = ""
    parameters: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    max_inputs: int = 1
    max_texts: int = 0
    max_codes: int = 0
    stems: str = ""
    check: Callable[[Order], Order] | None = None
    uses_tools: bool = True
    may_ask: bool = False
    """Whether a question ("how many rows …") is an order for the task."""
    max_unknown: int = 0
    """How many unknown words an answer in words tolerates, if nothing asks for work."""
    yields: bool = False
    """Whether a task for files of a certain kind comes first, if the request fits it too."""
    is_exact: bool = False
    """Whether a request for the task must contain no unknown word."""
    forbids: str = ""
    """A pattern of words that ask for more than the task does, although each is harmless in other requests."""
    makes: bool = False
    """Whether the task makes files, so that words like "write a program" are part of the request."""

    @cached_property
    def need_patterns(self) -> list[re.Pattern[str]]:
        return [vocabulary.compile_words(need) for need in self.needs]

    @cached_property
    def parameter_patterns(self) -> list[re.Pattern[str]]:
        return compile_parameters(self.parameters)

    @cached_property
    def word_patterns(self) -> list[re.Pattern[str]]:
        """The patterns of the words that the task covers: its own, and those of all such tasks."""
        own = vocabulary.compile_words("|".join(filter(None, (*self.needs, self.words))))
        return [own, vocabulary.compile_shared(is_making=self.is_making)]

    @property
    def takes_numbers(self) -> bool:
        """Whether a number may be a parameter of the task."""
        return any(
            "{n}" in pattern or "{m}" in pattern or "numbers" in pattern
            for pattern in self.parameters
        )

    @cached_property
    def forbidden(self) -> re.Pattern[str] | None:
        return vocabulary.compile_words(self.forbids) if self.forbids else None

    @property
    def is_making(self) -> bool:
        return self.makes or bool(self.outputs)

    @cached_property
    def targets(self) -> frozenset[str]:
        """The words to which a mistyped word may be corrected."""
        return vocabulary.find_words((*self.needs, self.words, *self.parameters)) | COMMON


def compile_parameters(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    """Return patterns whose "{n}", "{m}" and "{low}" match a number, and call it so."""
    numbers = {name: NUMBER.format(name=name) for name in ("n", "m", "low")}
    return [
        vocabulary.compile_words(re.sub(r"\{(n|m|low)\}", lambda m: numbers[m[1]], alternative))
        for pattern in patterns
        for alternative in vocabulary.split_alternatives(pattern)
    ]
