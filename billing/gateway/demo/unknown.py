"""Unknown words that a request for a task may contain.

Newcomers use words that no list has ("yeet me the first 20 primes, my bus is coming"). This module decides whether a
request means the same without them. It looks at each clause with such words:

- A clause that only talks ("my bus is coming") wishes nothing, and any unknown word may stand in it.
- In a clause that names the task, a few may stand where a word adds nothing: not beside the words that name the task
  ("gaussian primes"), not behind words like "with" or "as", and no number.
- Any other clause behind the task may be a further order ("then yodel them"), so no unknown word may stand in it.

In none of them may a word change the meaning, as those of the lists ``other_work`` and ``changing`` do.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from billing.gateway.demo import wording
from billing.gateway.demo.stories import (
    BEGINNING,
    CONDITION,
    COUNTED,
    PAST,
    PEOPLE,
    PERSON,
    Span,
    find_stories,
)
from billing.gateway.demo.wording import Left, changes_chinese, changes_meaning

MAX_UNKNOWN = 2
"""How many unknown words the clauses that name the task may contain."""
MAX_UNKNOWN_CHINESE = 4
"""How many unknown Chinese characters they may contain."""


@dataclass(frozen=True, slots=True)
class _Clause:
    """A clause with the parts of it that no list knows."""

    text: str
    start: int
    parts: Sequence[Left]
    has_core: bool
    """Whether it contains words that name the task or its parameters."""
    is_before: bool
    """Whether it ends before the first of them."""

    @property
    def spoken(self) -> str:
        """The text without spaces at its edges, on which patterns are matched."""
        return self.text.strip()

    @property
    def is_chinese(self) -> bool:
        """Whether all unknown parts are Chinese."""
        return all(_CHINESE.fullmatch(part.text) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Remainder:
    """The parts of a request that a task leaves, and the places where the request names the task.

    ``parts`` are the parts that no list knows, and ``forbidden`` those that ask for more than the task does. ``needs``
    are the places of the words that name the task, for each of its conditions, and ``parameters`` those of its
    parameters. ``takes_numbers`` says whether a number may be one.
    """

    text: str
    parts: Sequence[Left]
    forbidden: Sequence[Left]
    needs: Sequence[Sequence[Span]]
    parameters: Sequence[Span]
    takes_numbers: bool


def may_ignore(request: Remainder, others: Sequence[Span] = ()) -> bool:
    """Return whether a request means the same without the parts that no list knows.

    ``others`` are the places of words that name other tasks.
    """
    text = request.text
    stories = find_stories(text, request.parts, request.needs, takes_numbers=request.takes_numbers)

    def is_in_story(place: int) -> bool:
        return any(start <= place < end for start, end in stories)

    left = [part for part in request.parts if not is_in_story(part.start)]
    needs = [
        next((span for span in need if not is_in_story(span[0])), None) for need in request.needs
    ]
    cores = [span for span in (*needs, *request.parameters) if span and not is_in_story(span[0])]
    if not all(is_in_story(part.start) for part in request.forbidden):
        return False
    if any(
        start < part.start + len(part.text) and end > part.start
        for part in left
        for start, end in others
    ):
        return False
    if any(_is_beside(text, part, cores) for part in left):
        return False
    unknown: set[str] = set()
    for clause in _find_clauses(text, left, cores):
        if _is_talk(clause):
            continue
        if not (clause.has_core or clause.is_before):
            return False
        if not all(_adds_nothing(text, part) for part in clause.parts):
            return False
        if any(_belongs_to_core(text, part, clause, cores) for part in clause.parts):
            return False
        unknown |= {part.text for part in clause.parts}
    chinese = [word for word in unknown if _CHINESE.fullmatch(word)]
    return (
        len(unknown) - len(chinese) <= MAX_UNKNOWN and sum(map(len, chinese)) <= MAX_UNKNOWN_CHINESE
    )


def _find_clauses(text: str, left: Sequence[Left], cores: Sequence[Span]) -> list[_Clause]:
    """Return the clauses that contain unknown parts."""
    first_core = min((start for start, _ in cores), default=0)
    clauses = []
    for start, end in _split_clauses(text):
        if parts := [part for part in left if start <= part.start < end]:
            has_core = any(start <= core < end for core, _ in cores)
            clauses.append(_Clause(text[start:end], start, parts, has_core, end <= first_core))
    return clauses


_PURPOSE = re.compile(r" (?=(?:so (?!it |they )|because |while |since (?:i|we) ))")


def _split_clauses(text: str) -> list[Span]:
    """Return the places of the clauses of a text. A purpose or reason is a clause of its own."""
    return [
        (start + first, start + last)
        for start, end in wording.split_clauses(text)
        for first, last in _split_at(_PURPOSE, text[start:end])
    ]


def _split_at(pattern: re.Pattern[str], text: str) -> list[Span]:
    places = [match.start() for match in pattern.finditer(text)]
    return list(zip([0, *places], [*places, len(text)], strict=True))


# --- The clause that names the task ---------------------------------------------------

_PLAIN = re.compile(r"[a-z][a-z']+")
_CHINESE = re.compile(r"[\u4e00-\u9fff]+")
_LAST_WORD = re.compile(r"(?:([a-z']+)|[^a-z' ])? *$")
_SKIPPED = wording.read_group(
    '# Words that change nothing between a word like "with" and an unknown word', "grammar"
)
_JOINS = wording.read_group(
    "# Words behind which an unknown word says how, with what or under which condition something is to be done",
    "grammar",
)
_JOINS_CHINESE = frozenset("像用以按带成为到发给把被让使从于比并再且和跟与及或不别无没除每各只仅")
# What may stand between a description and the word of the task.
_BETWEEN = re.compile(r"[ -]*|[\u4e00-\u9fff]{0,2}[的地]")
# Behind these words, a clause says what the thing has or is.
_PARTS = re.compile(
    r"\b(?:that|which|with|without|including|plus|where|whose|but|until|till|unless|if|when|per)\b"
)


def _is_beside(text: str, part: Left, cores: Sequence[Span]) -> bool:
    """Return whether a part stands directly beside a word of the task, so that it may name another kind of it."""
    end = part.start + len(part.text)
    return any(
        (start >= end and _BETWEEN.fullmatch(text[end:start]))
        or (start < stop <= part.start and not text[stop : part.start].strip(" -"))
        for start, stop in cores
    )


def _adds_nothing(text: str, part: Left) -> bool:
    """Return whether a part in an order, with the word before it, changes nothing."""
    if _CHINESE.fullmatch(part.text):
        before = text[part.start - 1 : part.start]
        return before not in _JOINS_CHINESE and not changes_chinese(text, part)
    if (
        not _PLAIN.fullmatch(part.text)
        or part.text.endswith(("n't", "ly"))
        or changes_meaning(part.text)
    ):
        return False
    return _find_word_before(text[: part.start]) not in _JOINS


def _find_word_before(text: str) -> str | None:
    """Return the last word of a text in Latin script, apart from articles and the like."""
    text = text[-60:]
    while (match := _LAST_WORD.search(text)) and match[1] in _SKIPPED:
        text = text[: match.start()]
    return match[1] if match else None


def _belongs_to_core(text: str, part: Left, clause: _Clause, cores: Sequence[Span]) -> bool:
    """Return whether a part follows the task behind a word like "with", and so says something about it."""
    return any(
        clause.start <= core < part.start and _PARTS.search(text[core : part.start])
        for core, _ in cores
    )


# --- Clauses that only talk -----------------------------------------------------------

_WISHES = re.compile(
    r"\b(?:must|should|shall|needs?|needed|has to|have to|had to|wants?|wanted|wish(?:es)?|make sure|ensure|each|every|"
    r"instead|only|except|rather|unless|otherwise|prefers?|expects?|likes|loves|hates|(?:i|we|they)(?:'d)? (?:would |"
    r"really )?(?:like|love|hate)|please|can you|could you|would you|will you|insists?|requires?|ought|supposed|with|"
    r"without|using)\b"
)
# The subject of a clause and the verb behind it: neither "my bus" nor "my daughter exported" is an order.
_SUBJECT = re.compile(
    rf"{BEGINNING}(?:i|we|he|she|they|{PEOPLE} (?:old |new |little )?([a-z]+)(?: (?:is|was|has|are))?)"
    r"(?: (?:just|also|once|never|always|then))?(?: ([a-z]+(?:ed|ing|ought)))?\b"
)
_BEFORE_VERB = re.compile(
    r"(?:^|\b(?:and|then|please|also|to|or|so|now|just|you|don't|not|kindly)) *$"
)
_NEGATIONS = wording.read_group("# Negations", "grammar")
_PERSON_CHINESE = re.compile(
    "(?:因为|由于|其实|最近|今天|昨天|明天|刚才|听说|马上|等下|一会儿?|完事儿?|回头|反正|唉|哎呀?|嗨|话说|那个)*"
    "(?:我|俺|咱|老师|老板|领导|同事|朋友|孩子|儿子|女儿|闺女|娃|老婆|老公|妈|爸|室友|同学|导师|客户|他|她|人家|大家)"
)
_WISHES_CHINESE = re.compile("[要需想请帮用做改删只别让]|希望|必须|应该|不能|不许")
# What a clause without a person has if it says more about what is asked for.
_ORDERS_CHINESE = re.compile("的(?!话)|[也都再才先给把被成放搁加点黑白红绿蓝]|[0-9]")


def _is_talk(clause: _Clause) -> bool:
    """Return whether a clause only talks around the request."""
    return _is_chinese_talk(clause) if clause.is_chinese else _is_english_talk(clause)


def _is_english_talk(clause: _Clause) -> bool:
    text = clause.spoken
    is_person = bool(PERSON.match(text))
    if _WISHES.search(text) or (clause.has_core and not is_person):
        return False
    if not all(_may_stand_in_talk(part.text, clause, is_person=is_person) for part in clause.parts):
        return False
    subject = _SUBJECT.match(text)
    words = subject.groups() if subject else ()
    changing = {
        part.text for part in clause.parts if changes_meaning(part.text) and part.text not in words
    }
    if is_person:
        return not changing - _NEGATIONS or bool(PAST.search(text) and not CONDITION.search(text))
    is_order = any(_BEFORE_VERB.search(text[: text.find(part.text)]) for part in clause.parts)
    return not changing and (clause.is_before or not (is_order or text.startswith("but ")))


def _may_stand_in_talk(word: str, clause: _Clause, *, is_person: bool) -> bool:
    """Return whether a word or number may stand in talk."""
    if _PLAIN.fullmatch(word):
        return True
    is_counted = is_person and not clause.has_core and COUNTED.search(clause.text)
    return word.isdigit() and bool(is_counted)


def _is_chinese_talk(clause: _Clause) -> bool:
    text = clause.spoken
    is_short = sum(len(part.text) for part in clause.parts) <= MAX_UNKNOWN_CHINESE
    return (
        not clause.has_core
        and (
            clause.is_before
            or bool(_PERSON_CHINESE.match(text))
            or (is_short and not _ORDERS_CHINESE.search(text))
        )
        and not _WISHES_CHINESE.search(text)
        and not any(
            changes_chinese(clause.text, Left(part.start - clause.start, part.text))
            for part in clause.parts
        )
    )
