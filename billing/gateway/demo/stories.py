"""Sentences of a request that only tell what happened or who asks.

"I taught arithmetic for thirty years and never tire of them. Print the primes below 200, please." The first sentence
may contain any word: it orders nothing and names no condition ("my teacher hates loops" does). Such a sentence begins
with a person.
"""

import re
from collections.abc import Iterable, Sequence

from billing.gateway.demo import wording
from billing.gateway.demo.wording import Left, changes_meaning

Span = tuple[int, int]
"""A place in a text, as (start, end)."""

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_WORDLIKE = re.compile(r"[a-z0-9][a-z0-9'-]*(?: [a-z]+)?")
_SENTENCE_END = re.compile(r"(?:[.!?]+|[。！？…]+)(?=\s|$|[\u4e00-\u9fff])|\n")
_ORDER = re.compile(
    r"\b(?:please|can you|could you|would you|will you|can u|could u|i need|i'd like|i would like|i want|i "
    r"require|give|"
    r"show|write|make|create|build|print|list|find|explain|tell|let me|summari[sz]e|fix|repair|count|walk "
    r"me|look|search|"
    r"open|draft|need|have a|may i|what|what's|which|how|where)\b|[请帮写做打列看找给统解显修查来]"
)
PEOPLE = "(?:my|our|his|her|their)"
BEGINNING = (
    "(?:(?:and|so that|so|but|well|oh|right|yeah|that|which|before|because|cause|since|as|for|also|plus|though|"
    "although|while|if|then|now|sorry|hi|hey|hello|ok|okay|honestly|today|yesterday|anyway)[, ]+)*"
)
PERSON = re.compile(
    rf"{BEGINNING}(?:i|i'm|i've|i'll|i'd|we|we're|we've|he|he's|she|she's|they|they're|me|{PEOPLE}|you|you're|you'll|"
    r"there was|there were|everybody|everyone|nobody|somebody|someone|people|kids)\b"
)
_IDENTITY = re.compile(
    r"\b(?:i'm|i am|my name is|my name's|we are|we're|this is) (?!allergic|only|not|tired of|sick of|against)|\bhere$"
)
PAST = re.compile(
    r"\b(?:i|we|he|she|they|it|who|(?:my|our|his|her|their|the|an?|some) (?:[a-z'-]+ )?[a-z'-]+|somebody|"
    r"someone|everyone|"
    r"everybody|[a-z]+ and i)(?:'ve| have| has| had)? (?:(?:just|also|once|then|only|already|never|always|"
    r"really|finally) )?"
    r"(?:[a-z]{2,}ed|wrote|written|was|were|got|went|gone|made|saw|seen|lost|found|came|took|taken|gave|"
    r"given|began|read|"
    r"heard|forgot|forgotten|left|sent|had|broke|broken|spent|fell|sat|slept|ate|eaten|drank|bought|met|"
    r"taught|grew|grown|"
    r"built|ran|quit|did|done|been)\b"
)
CONDITION = re.compile(
    r"\b(?:(?<!i )(?<!we )must|should|shall|needs?|has to|(?<!i )(?<!we )have to|(?<!i )(?<!we )had to|"
    r"wants?|wish(?:es)?|make sure|ensure|instead|only|except|rather|"
    r"unless|otherwise|prefers?|expects?|likes?|loves?|hates?|insists?|requires?|ought|supposed|accepts?|"
    r"allergic|allowed|"
    r"allows?|won't|can't (?:stand|read|see|use|have|do)|favou?rites?|leave (?:out|them|it)|skip|avoid|banned|forbids?|"
    r"forbade|forbidden|asked (?:for|me to|us to)|wanted|please|without|reads|speaks|understands|using|"
    r"said|says|(?:tells|instructs) me to|"
    r"never (?:use|show|print|want)|no (?:more|longer)|don't (?:use|show|print|want|like|include)|not "
    r"(?:use|show|print))\b"
)
_CONDITION_CHINESE = re.compile(
    "请|帮|麻烦|必须|应该|不能|不许|只|别(?!人)|希望|不要|要求|得用|得是"
)
_PERSON_CHINESE = re.compile(
    "(?:因为|由于|其实|最近|今天|昨天|明天|刚才|听说|唉|哎呀?|嗨|话说|那个|上周|以前)*(?:我(?!们公司|们都)|俺|咱|老师|老板|领导|"
    "同事|朋友|孩子|儿子|女儿|闺女|娃|老婆|老公|妈|爸|室友|同学|导师|客户|他|她|人家)"
)
# Ages, times and numbers of people.
COUNTED = re.compile(
    r"\b(?:am|is|are|i'm|he's|she's|turned|turns|turning|aged?|at) \d{1,3}\b(?! (?:numbers?|primes?|terms?|lines?))|"
    r"\b\d{1,4}[ -](?:years?|yrs?|kids|children|students|pupils|people|minutes?|mins?|hours?|days?|weeks?|months?|"
    r"miles|km|cats|dogs|grandchildren|exams|classes|meetings)\b"
)
# No sentence may name one of these: what "we use" is what the user gets.
_TOOLS = (
    wording.read_group("# Languages and programs", "other_work")
    | wording.read_group("# natural languages", "changing")
    | wording.read_group("# programming languages", "changing")
    | wording.read_group("# frameworks and libraries", "changing")
    | wording.read_group("# algorithms and programming techniques", "changing")
)


def find_stories(
    text: str, left: Sequence[Left], needs: Sequence[Sequence[Span]], *, takes_numbers: bool
) -> list[Span]:
    """Return the places of the sentences that only tell something.

    ``left`` are the parts that nobody knows, and ``needs`` the places of the words that name the task, for each of its
    conditions. ``takes_numbers`` says whether a number may be a parameter of the task.
    """
    # The place of a file's name is not a word that names a task.
    needs = [spans for need in needs if (spans := [span for span in need if span[0] < span[1]])]
    sentences = _split_sentences(text)
    orders = [span for span in sentences if _ORDER.search(text[span[0] : span[1]])]
    complete = [span for span in orders if all(_occurs(need, span) for need in needs)]
    named = [span for span in orders if any(_occurs(need, span) for need in needs)]
    first = min(complete or named, default=(0, 0))[0]
    stories = []
    for start, end in sentences:
        if (start, end) in complete:
            continue
        sentence = _Sentence(
            text[start:end],
            [Left(part.start - start, part.text) for part in left if start <= part.start < end],
            is_before=start < first,
        )
        if sentence.is_story(takes_numbers=takes_numbers):
            stories.append((start, end))
    others = [span for span in sentences if span not in stories]
    return stories if any(_occurs(need, span) for need in needs for span in others) else []


def _split_sentences(text: str) -> list[Span]:
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return list(zip([0, *ends], [*ends, len(text)], strict=True))


def _occurs(need: Iterable[Span], span: Span) -> bool:
    return any(span[0] <= start < span[1] for start, _ in need)


class _Sentence:
    """A sentence with the parts of it that nobody knows."""

    def __init__(self, text: str, parts: Sequence[Left], *, is_before: bool) -> None:
        self.text, self.parts = text, parts
        self.is_before = is_before
        """Whether it comes before the order."""

    def is_story(self, *, takes_numbers: bool) -> bool:
        if _CHINESE.search(self.text):
            return self.is_before and self._is_chinese_story(takes_numbers=takes_numbers)
        is_question = self.text.rstrip().endswith("?")
        if CONDITION.search(self.text) or (is_question and not self.is_before):
            return False
        return bool(PERSON.match(self.text.strip())) and all(
            self._may_stand(part, takes_numbers=takes_numbers) for part in self.parts
        )

    def _may_stand(self, part: Left, *, takes_numbers: bool) -> bool:
        if part.text in _TOOLS:
            return False
        clause = self._find_clause(part.start)
        is_past = bool(_IDENTITY.search(clause) or PAST.search(clause))
        if part.text.isdigit():
            return not takes_numbers or is_past or bool(COUNTED.search(clause))
        return bool(_WORDLIKE.fullmatch(part.text)) and (not changes_meaning(part.text) or is_past)

    def _find_clause(self, place: int) -> str:
        """Return the clause of the sentence that contains a place."""
        spans = re.finditer(r"[^,;:()]+", self.text)
        return next((m[0].strip(".! ") for m in spans if m.start() <= place < m.end()), self.text)

    def _is_chinese_story(self, *, takes_numbers: bool) -> bool:
        if not _PERSON_CHINESE.match(self.text) or _CONDITION_CHINESE.search(self.text):
            return False
        return not any(
            wording.changes_chinese(self.text, part)
            or (part.text.isdigit() and part.text != "1" and takes_numbers)
            for part in self.parts
        )
