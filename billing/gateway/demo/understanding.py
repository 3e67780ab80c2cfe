"""The meaning of a request: a task of the catalogue with its parameters, or the part that is not understood.

A request means a task only if all of its words are covered: by the words that name the task, by parameters that the
task knows, and by words that change nothing ("please", "a program"). One word too many ("in Rust") declines the
request, so that nothing is done wrongly.
"""

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from billing.gateway.demo import vocabulary
from billing.gateway.demo.reading import MAX_REQUEST, Reading, find_fault, read
from billing.gateway.demo.workbench import Bench, Text
from billing.gateway.script import Step

NUMBER = r"(?:(?<![a-z0-9_.,])(?<!(?<!\d)-)(?P<{name}>\d{{1,9}})(?!\d|[.,]\d|[a-z_]))"
_WORD = re.compile(r"(?<![\w⟦'])[a-z]{4,20}(?![\w'⟧])")
_LEFT = re.compile(r"-?\d[\w.,]*|[^\W\d_⟦⟧]+(?:['-][^\W_⟦⟧]+)*|⟦[a-z]\d+⟧|[+*/^%$#@&<>=≤≥]")
# Questions about something that may exist, which are no orders to make it.
_ASKS = re.compile(
    r"^(?:(?:hi|hello|hey|please|so|and|but|ok|okay)[ ,!.]*)*(?:is(?! it possible)|are(?! you able)|"
    r"does|do (?:you(?! think you)|i|we|they)|did|has|have|why|when|where|who|how|was|were)\b"
    r"|有没有|是否有|有[^，。]*吗|为什么|怎么|如何"
)
_CREATES = re.compile(
    r"\b(?:write|create|make|generate|implement|build|add|code)\b|写|创建|生成|做|新建|编"
)
_FOLLOWS = (
    "again|once more|one more time|another time|repeat|redo|the same|same thing|same|instead|rather|"
    "change|changed|make|now|but|this time|"
    "retry|rerun|re-run|more|other|another|different|version|numbers?|limit|count|it|that|first|"
    "values?|what about|how about"
)
_FOLLOWS_ZH = (
    "再来|再次|再|重新|重来|重做|重试|还是|同样|一遍|一次|一样|改成|改为|改|换成|换为|换|变成|这次|"
    "这回|数量|个|次|到|变|如果|那么|呢|做"
)
_BARE = tuple(
    pattern.format(n=NUMBER.format(name="bare"))
    for pattern in (
        "(?:with|for|to|do|make it|try|use|now|instead|first|about)(?: the)?(?: first)? {n}",
        "{n}",
    )
)


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
    """A request that is not carried out. ``reason`` says why, in both languages, or is None if no task fits."""

    def __init__(self, reason: Text | None = None) -> None:
        super().__init__(reason.english if reason else "")
        self.reason = reason


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
    makes: bool = False
    """Whether the task makes files, so that words like "write a program" are part of the request."""

    @cached_property
    def need_patterns(self) -> list[re.Pattern[str]]:
        return [vocabulary.compile_words(need) for need in self.needs]

    @cached_property
    def parameter_patterns(self) -> list[re.Pattern[str]]:
        return compile_parameters(self.parameters)

    @cached_property
    def vocabulary(self) -> re.Pattern[str]:
        shared: tuple[str, ...] = (vocabulary.POLITE, vocabulary.POLITE_ZH)
        if self.is_making:
            shared = (
                vocabulary.RUN,
                vocabulary.RUN_ZH,
                vocabulary.SAVE,
                vocabulary.SAVE_ZH,
                vocabulary.STYLE,
                vocabulary.STYLE_ZH,
                vocabulary.MAKING,
                vocabulary.MAKING_ZH,
                *shared,
            )
        return vocabulary.compile_words("|".join(filter(None, (*self.needs, self.words, *shared))))

    @property
    def is_making(self) -> bool:
        return self.makes or bool(self.outputs)

    @cached_property
    def targets(self) -> frozenset[str]:
        """The words to which a mistyped word may be corrected."""
        common = {
            "write",
            "create",
            "please",
            "program",
            "python",
            "script",
            "print",
            "file",
            "save",
            "first",
        }
        return vocabulary.find_words((*self.needs, self.words, *self.parameters)) | common


def compile_parameters(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    """Return patterns whose "{n}", "{m}" and "{low}" match a number, and call it so."""
    numbers = {name: NUMBER.format(name=name) for name in ("n", "m", "low")}
    return [
        vocabulary.compile_words(re.sub(r"\{(n|m|low)\}", lambda m: numbers[m[1]], alternative))
        for pattern in patterns
        for alternative in vocabulary.split_alternatives(pattern)
    ]


@dataclass(slots=True)
class _Match:
    order: Order
    left: list[str]


class Understanding:
    """The catalogue as a dictionary of requests: ``understand`` finds the task that a request asks for."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        patterns = [p for task in tasks for p in (*task.needs, task.words, *task.parameters)]
        shared = (
            vocabulary.POLITE,
            vocabulary.MAKING,
            vocabulary.RUN,
            vocabulary.SAVE,
            vocabulary.STYLE,
            vocabulary.NO_RUN,
            _FOLLOWS,
        )
        self.known = vocabulary.find_words((*patterns, *shared))

    def understand(
        self, request: str, *, before: Order | None = None, has_images: bool = False
    ) -> Order:
        """Return what a request asks for. ``before`` is what the previous request asked for, for "again with 50".

        Raise ``Declined``.
        """
        if len(request) > MAX_REQUEST:
            raise Declined(
                Text(
                    f"The request has more than {MAX_REQUEST:,} characters.",
                    f"请求超过了 {MAX_REQUEST} 个字符。",
                )
            )
        reading = read(request)
        if has_images:
            raise Declined(Text("I cannot look at images.", "我看不了图片。"))
        matches = [match for task in self.tasks if (match := self._match(task, reading))]
        reasons: list[Declined] = []
        for match in matches:
            if not match.left:
                try:
                    return _complete(match.order)
                except Declined as declined:
                    reasons.append(declined)
        if before and (order := self._follow(before, reading)):
            return _complete(order)
        if reasons:
            raise reasons[0]
        for name in reading.files:
            if find_fault(name) == "outside":
                raise Declined(_tell_outside(name))
        partial = [match for match in matches if match.order.task.uses_tools and match.left]
        if partial:
            best = min(partial, key=lambda match: (len(match.left), not match.order.inputs))
            raise Declined(_explain_left(best))
        raise Declined

    def _match(self, task: Task, reading: Reading, *, is_follow: bool = False) -> _Match | None:
        text = self._correct(reading.text, task)
        is_named = (
            bool(task.stems)
            and bool(_CREATES.search(text))
            and any(
                re.search(task.stems, name.rpartition("/")[2].rpartition(".")[0].lower())
                for name in reading.files
            )
        )
        if task.is_making and not task.may_ask and _ASKS.search(text):
            return None
        missing = [p for p in task.need_patterns if not p.search(text)]
        if not is_follow and missing and not is_named:
            return None
        values: dict[str, Any] = {}
        is_run = True
        rest, count = _NO_RUN.subn(" ¦ ", text)
        if count:
            is_run = False
        for pattern in [*task.parameter_patterns, *(_BARE_PATTERNS if is_follow else ())]:
            if match := pattern.search(rest):
                new = {
                    name: value for name, value in match.groupdict().items() if value is not None
                }
                if new.keys() & values.keys() or (values.get("bare") and new):
                    continue  # a second value for the same parameter stays uncovered
                values |= new
                rest = f"{rest[: match.start()]} ¦ {rest[match.end() :]}"
        words = task.vocabulary if not is_follow else _with_follows(task)
        rest = words.sub("¦", rest)
        left = []
        inputs: list[str] = []
        outputs: list[str] = []
        texts: list[str] = []
        codes: list[tuple[str, str]] = []
        for token in _LEFT.findall(rest):
            kind = token[1] if token.startswith("⟦") else ""
            index = int(token[2:-1]) if kind else 0
            if kind == "f" and self._take_file(task, reading.files[index], inputs, outputs):
                continue
            if kind == "t" and len(texts) < task.max_texts:
                texts.append(reading.texts[index])
                continue
            if kind == "c" and len(codes) < task.max_codes:
                codes.append(reading.codes[index])
                continue
            left.append(_name_left(token, kind, index, reading))
        order = Order(
            task,
            values,
            tuple(inputs),
            outputs[0] if outputs else None,
            tuple(texts),
            tuple(codes),
            is_run,
            reading,
        )
        return _Match(order, left)

    def _correct(self, text: str, task: Task) -> str:
        """Return a text in which mistyped words are replaced by the words of a task that they mean."""

        def replace_word(match: re.Match[str]) -> str:
            word = match[0]
            return (
                word if word in self.known else vocabulary.correct(word, self.known, task.targets)
            )

        return _WORD.sub(replace_word, text)

    @staticmethod
    def _take_file(task: Task, name: str, inputs: list[str], outputs: list[str]) -> bool:
        extension = name.rpartition(".")[2].lower()
        bare = name.rpartition("/")[2].lower()
        is_output = extension in task.outputs and not (
            extension in task.inputs and not bare.startswith("test")
        )
        if is_output and not outputs:
            outputs.append(name)
            return True
        if (extension in task.inputs or "*" in task.inputs) and len(inputs) < task.max_inputs:
            inputs.append(name)
            return True
        return False

    def _follow(self, before: Order, reading: Reading) -> Order | None:
        """Return the previous order with the changes that a short follow-up asks for, or None if it is not one."""
        if not before.task.uses_tools or len(reading.text) > 120 or not reading.text:
            return None
        match = self._match(before.task, reading, is_follow=True)
        if (
            match is None
            or match.left
            or match.order.inputs
            or match.order.texts
            or match.order.codes
        ):
            return None
        order = match.order
        values = dict(order.values)
        bare = values.pop("bare", None)
        if bare:
            names = [name for name in ("m", "n") if name in before.values] or ["n"]
            values[names[0]] = bare
            values = before.values | values
        elif not values.keys() & {"n", "m"}:
            values = before.values | values
        is_again = _AGAIN.search(reading.text)
        if not (order.values or order.output or is_again):
            return None
        return replace(
            before,
            values=values,
            output=order.output or before.output,
            is_run=order.is_run,
            reading=replace(before.reading, is_chinese=reading.is_chinese),
        )


_NO_RUN = vocabulary.compile_words(f"{vocabulary.NO_RUN}")
_BARE_PATTERNS = [vocabulary.compile_words(pattern) for pattern in _BARE]
_AGAIN = vocabulary.compile_words(
    "again|once more|repeat|redo|retry|rerun|re-run|one more time|another time|run it|再来|再次|重新|重来|"
    "重做|重试|再做|再运行|再跑|再试|一遍|一次"
)
_FOLLOW_PATTERNS: dict[str, re.Pattern[str]] = {}


def _with_follows(task: Task) -> re.Pattern[str]:
    if task.key not in _FOLLOW_PATTERNS:
        _FOLLOW_PATTERNS[task.key] = re.compile(
            f"{vocabulary.compile_words(f'{_FOLLOWS}|{_FOLLOWS_ZH}').pattern}|{task.vocabulary.pattern}"
        )
    return _FOLLOW_PATTERNS[task.key]


def _complete(order: Order) -> Order:
    """Check the names of files, and let the task check its parameters. Raise ``Declined``."""
    for name in (*order.inputs, *filter(None, [order.output])):
        fault = find_fault(name)
        if fault == "outside":
            raise Declined(_tell_outside(name))
        if fault:
            raise Declined(
                Text(
                    f"I do not use a file name like `{name}`.", f"我不使用 `{name}` 这样的文件名。"
                )
            )
    return order.task.check(order) if order.task.check else order


def _tell_outside(name: str) -> Text:
    return Text(
        f"`{name}` is outside of the working directory, and I stay inside it.",
        f"`{name}` 在工作目录之外，而我只在工作目录里工作。",
    )


def _name_left(token: str, kind: str, index: int, reading: Reading) -> str:
    match kind:
        case "f":
            return reading.files[index]
        case "t":
            return reading.texts[index][:40]
        case "c":
            return "```"
        case "u":
            return "://"
        case _:
            return token


def _explain_left(match: _Match) -> Text:
    task = match.order.task
    parts = list(dict.fromkeys(match.left))[:6]
    english = ", ".join(f"“{part}”" for part in parts)
    chinese = "、".join(f"“{part}”" for part in parts)
    return Text(
        f"I know this task: {task.title.english}. But I do not understand this part of your request: {english}.",
        f"我会做“{task.title.chinese}”，但是不理解请求里的这一部分：{chinese}。",
    )
