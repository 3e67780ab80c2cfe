"""The meaning of a request: a task of the catalogue with its parameters, or the part that is not understood.

A request means a task if all of its words are covered: by the words that name the task, by parameters that the task
knows, and by words that change nothing ("please", "a program"). Otherwise the module ``unknown`` decides whether the
remaining words may be ignored. If not ("in Rust"), the request is declined, so that nothing is done wrongly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from billing.gateway.demo import vocabulary, wording
from billing.gateway.demo.order import COMMON, NUMBER, Declined, Order, Task
from billing.gateway.demo.reading import MAX_REQUEST, Reading, find_fault, read
from billing.gateway.demo.unknown import Remainder, may_ignore
from billing.gateway.demo.workbench import Text

_WORD = re.compile(r"(?<![a-z0-9_⟦'])[a-z]{4,20}(?![a-z0-9_'⟧])")
# Questions about something that may exist, which are no orders to make it.
_ASKS = re.compile(
    r"^(?:(?:hi|hello|hey|please|so|and|but|ok|okay)[ ,!.]*)*(?:is(?! it possible)|are(?! you able)|"
    r"does|do (?:you(?! think you)|i|we|they)|did|has|have|why|when|where|who|how(?! about)|was|were)\b"
    r"|有没有|是否有|有[^，。,]*吗|为什么|怎么|如何"
)
_THEN_ORDERS = re.compile(
    r"[?.!:;,] ?(?:so |then |and |please |can you |could you |just )*"
    r"(?:write|create|make|build|implement|program|code|print|run|generate|show|give me an? (?:function|"
    r"program|script))\b"
    r"|[。？?，,].{0,6}(?:写|做|生成|实现|打印)"
)
_CREATES = re.compile(
    r"\b(?:write|create|make|generate|implement|build|add|code)\b|写|创建|生成|做|新建|编"
)
MIN_HARMLESS = 5
"""The minimum length of a mistyped word that may mean a harmless word."""
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


@dataclass(slots=True)
class _Match:
    order: Order
    left: list[str]
    """The parts that the task leaves, as the user reads them."""
    remainder: Remainder


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
        self.known = (
            COMMON
            | wording.read_words("other_work")
            | vocabulary.find_words((*patterns, *shared, *wording.read_lines("harmless_phrases")))
        )

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
                    return _complete(_find_special(match, matches).order)
                except Declined as declined:
                    declined.nearest = declined.nearest or match.order.task.key
                    reasons.append(declined)
        if order := self._find_talk(matches, reading):
            return order
        if before and (order := self._follow(before, reading)):
            return _complete(order)
        explained = [declined for declined in reasons if declined.reason]
        if not explained and (order := self._find_almost(matches)):
            return _complete(order)
        raise explained[0] if explained else _find_reason(matches, reading, request)

    @staticmethod
    def _find_almost(matches: list[_Match]) -> Order | None:
        """Return the only task that a request means although a word or two are unknown, or None."""
        tasks = [match for match in matches if match.order.task.uses_tools]
        fitting = [
            match
            for match in tasks
            if not (match.order.task.is_exact or match.order.texts)
            and may_ignore(match.remainder, _find_names(match, tasks))
        ]
        if not fitting:
            return None
        return _find_special(min(fitting, key=lambda match: len(match.left)), tasks).order

    @staticmethod
    def _find_talk(matches: list[_Match], reading: Reading) -> Order | None:
        """Return the topic to answer in words although some words are unknown, or None."""
        if reading.files or reading.codes or any(m.order.task.uses_tools for m in matches):
            return None
        fitting = (
            match.order
            for match in matches
            if len(match.left) <= match.order.task.max_unknown and _is_talk(match)
        )
        return next(fitting, None)

    def _match(self, task: Task, reading: Reading, *, is_follow: bool = False) -> _Match | None:
        text = self._correct(reading.text, task)
        is_named = bool(task.stems and _CREATES.search(text)) and any(
            re.search(task.stems, name.rpartition("/")[2].rpartition(".")[0].lower())
            for name in reading.files
        )
        if not (is_follow or is_named or all(p.search(text) for p in task.need_patterns)):
            return None
        is_order = not task.is_making or task.may_ask
        if not is_order and _ASKS.search(text) and not _THEN_ORDERS.search(text):
            return None
        values: dict[str, Any] = {}
        needs = [[m.span() for m in p.finditer(text)] for p in task.need_patterns]
        parameters: list[tuple[int, int]] = []
        rest, count = _NO_RUN.subn(_blank, text)
        for pattern in [*task.parameter_patterns, *(_BARE_PATTERNS if is_follow else ())]:
            if match := pattern.search(rest):
                new = {
                    name: value for name, value in match.groupdict().items() if value is not None
                }
                if new.keys() & values.keys() or (values.get("bare") and new):
                    continue  # a second value for the same parameter stays uncovered
                values |= new
                parameters.append(match.span())
                rest = f"{rest[: match.start()]}{_blank(match)}{rest[match.end() :]}"
        patterns = [*task.word_patterns, *([_FOLLOW_WORDS] if is_follow else ())]
        task_at = min((spans[0][0] for spans in needs if spans), default=0)
        parts = wording.find_left(rest, patterns, is_making=task.is_making, task_at=task_at)
        forbidden = _find_forbidden(task, text)
        parts += forbidden
        left = []
        unknown_parts: list[wording.Left] = []
        inputs: list[str] = []
        outputs: list[str] = []
        texts: list[str] = []
        codes: list[tuple[str, str]] = []
        for part in parts:
            token = part.text
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
            unknown_parts.append(part)
        order = Order(
            task,
            values,
            tuple(inputs),
            outputs[0] if outputs else None,
            tuple(texts),
            tuple(codes),
            not count,
            reading,
        )
        remainder = Remainder(
            text, unknown_parts, forbidden, needs, parameters, takes_numbers=task.takes_numbers
        )
        return _Match(order, left, remainder)

    def _correct(self, text: str, task: Task) -> str:
        """Return a text in which mistyped words are replaced by words of a task, or by harmless words."""

        def replace_word(match: re.Match[str]) -> str:
            word = match[0]
            if word in self.known or wording.is_harmless(word):
                return word
            meant = vocabulary.correct(word, self.known, task.targets)
            if meant == word and len(word) >= MIN_HARMLESS:
                meant = vocabulary.correct(word, self.known, wording.read_words("harmless_english"))
            return meant

        return _WORD.sub(replace_word, wording.write_in_full(text))

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
_MAKING = vocabulary.compile_words(f"{vocabulary.MAKING}|{vocabulary.MAKING_ZH}")
_AGAIN = vocabulary.compile_words(
    "again|once more|repeat|redo|retry|rerun|re-run|one more time|another time|run it|再来|再次|重新|重来|"
    "重做|重试|再做|再运行|再跑|再试|一遍|一次"
)
_FOLLOW_WORDS = vocabulary.compile_words(f"{_FOLLOWS}|{_FOLLOWS_ZH}")
# Explanations, which a program does not give.
_TELLS = vocabulary.compile_words(
    "(?:tell|teach|explain) (?:to )?(?:me |us )?(?:about|how|why|what a)|tell (?:me|us) (?:something|"
    "more|a bit|anything|everything) about|questions? (?:about|on)|(?:quiz|lessons?|tutorial|"
    "essay|poem|song|story|article|text|slides|presentation|ideas?|facts?) (?:about|on|for)|"
    "what(?:'s| is) the (?:best|fastest|most [a-z]+) way to|"
    "just (?:a|the) (?:number|count|total)|a (?:number|count) (?:will do|is enough)|(?:the )?(?:point|"
    "use|history|meaning|importance|beauty|idea|origin|inventor|theory) (?:of|behind)|"
    "(?:in|using|with)(?: just| only)? (?:one|1|a single) line|一行代码|1行代码|有什么用|有啥用|"
    "有什么意义|是什么意思|为什么|历史"
)


# What repeats itself, which a program that runs once does not do.
_REPEATS = vocabulary.compile_words(
    "(?:every|each)(?: \\d+)? (?:seconds?|minutes?|hours?|days?|nights?|mornings?|evenings?|weeks?|months?|"
    "[a-z]{3,6}day)|once (?:a|an|per) [a-z]+|in the background|forever|每(?:天|小时|分钟|秒|周|晚|隔)"
)


# Further orders in everyday words.
_FURTHER = vocabulary.compile_words(
    "(?:and|then|n)(?: then| also| please| just| maybe)* (?:get rid|throw|chuck|bin|toss|trash|ditch|pop|"
    "stick|pin|line (?:them|it|up)|take a "
    "guess|guess|break|hide|hang|send|drop|ship|ring|call|poke|ping|nudge|wake|warn|remind|beep|burn|wipe|"
    "sweep|mop|cut|"
    "trim|strip|shave|squeeze|pack|wrap|box|move|swap|flip|paint|dress|frame|slap|whack|smash|kill|nuke|"
    "settle|stamp|sign|"
    "seal|star|underline|highlight|rank|grade|score|rate|judge|roast|quiz|sing|hum|dance|perform|record|do (?:them|it|"
    "the|each|all))(?! (?:me|us)\\b)|(?:poke|ping|nudge|wake|warn|remind|ring) me|get rid of|whenever"
)


# Orders in words that are harmless as adjectives ("a tidy program").
_ORDERS = vocabulary.compile_words(
    "(?:tidy|clean|polish|neaten|straighten|freshen|spruce) (?:it|them|this|that|everything|up|(?:the|my|our) "
    "(?:code|folder|files?|mess|place|directory|repo(?:sitory)?|project))"
)


def _find_forbidden(task: Task, text: str) -> list[wording.Left]:
    """Return the parts of a text that ask for more than a task does."""
    patterns = [_ORDERS] if task.uses_tools else []
    patterns += [_TELLS] if task.is_making and not task.may_ask else []
    if task.is_making and "html" not in task.outputs:
        patterns.append(_REPEATS)
    if task.uses_tools and "html" not in task.outputs:
        patterns.append(_FURTHER)
    if task.forbidden and task.uses_tools:
        patterns.append(task.forbidden)
    return [wording.Left(m.start(), m[0]) for pattern in patterns for m in pattern.finditer(text)]


def _find_special(match: _Match, matches: Sequence[_Match]) -> _Match:
    """Return the match of a task for the kind of file that a request names, if the task of ``match`` yields to it."""
    if not (match.order.task.yields and match.order.inputs):
        return match
    extension = match.order.inputs[0].rpartition(".")[2].lower()
    special = (
        other
        for other in matches
        if other.order.task.may_ask
        and extension in other.order.task.inputs
        and other.order.inputs == match.order.inputs
        and not other.remainder.forbidden
    )
    return next(special, match)


def _find_names(match: _Match, matches: Sequence[_Match]) -> list[tuple[int, int]]:
    """Return the places of words that name other tasks than that of a match."""
    return [
        need[0]
        for other in matches
        if other is not match
        for need in other.remainder.needs
        if need and need[0][1] - need[0][0] > 1
    ]


def _is_talk(match: _Match) -> bool:
    """Return whether nothing in a request, with parts that are not understood, asks for work."""
    forbidden = match.order.task.forbidden
    return not (forbidden and forbidden.search(match.order.reading.text)) and not any(
        part in wording.read_words("other_work")
        or not part.isalpha()
        or _MAKING.search(part)
        or any(word in part for word in wording.read_words("other_work_chinese"))
        for part in match.left
    )


def _blank(match: re.Match[str]) -> str:
    """Return characters in the place of a match, so that all other parts keep their places."""
    return "¦" * len(match[0])


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


def _find_reason(matches: list[_Match], reading: Reading, request: str) -> Declined:
    """Return why a request is declined that no task covers in full."""
    for name in reading.files:
        if find_fault(name) == "outside":
            return Declined(_tell_outside(name))
    partial = [match for match in matches if match.order.task.uses_tools and match.left]
    if not partial:
        return Declined()
    best = min(partial, key=lambda match: (len(match.left), not match.order.inputs))
    try:
        plain = None if best.order.task.is_exact else _complete(best.order)
    except Declined:
        plain = None
    return Declined(
        _explain_left(best, request, may_accept=plain is not None),
        nearest=best.order.task.key,
        plain=plain,
    )


def _explain_left(match: _Match, request: str, *, may_accept: bool) -> Text:
    task = match.order.task
    parts = []
    for part in dict.fromkeys(match.left):
        typed = re.search(re.escape(part), request, re.IGNORECASE)
        parts.append(typed[0] if typed else part)
    english = ", ".join(f"“{part}”" for part in parts[:6])
    chinese = "、".join(f"“{part}”" for part in parts[:6])
    text = Text(
        f"I know this task: {task.title.english}. But I do not understand this part of your request: {english}.",
        f"我会做“{task.title.chinese}”，但是不理解请求里的这一部分：{chinese}。",
    )
    if not may_accept:
        return text
    return Text(
        f"{text.english} If you want it without that part, answer “yes”.",
        f"{text.chinese}如果不要这一部分也可以，请回答“好”。",
    )
