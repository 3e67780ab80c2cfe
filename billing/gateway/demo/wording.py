"""The words of a request that change nothing, and those that no pattern of a task covers.

The lists of words are in the folder ``words``: harmless words, which any request may contain; short forms, which are
written in full before a request is compared with a task; and words that ask for other work, which no mistyped word
means and which a clause about the user's circumstances must not contain.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "words"
LONGEST_CHINESE = 8
_LOOKS_BEHIND = 12
"""How far the phrases look behind their beginning."""
_MAX_CACHED = 1_000
_TOKEN = re.compile(
    r"-?\d+(?:[.,]\d+)*[a-z_]*|[a-z_][a-z0-9_]*(?:['-][a-z0-9_]+)*|[\u4e00-\u9fff]|⟦[a-z]\d+⟧|[^\W\d_⟦⟧]+"
    r"|(?<![a-z] )/|/(?! [a-z])|[+*^%$#@&<>=≤≥]"
)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_SUFFIXES = ("", "s", "es", "d", "ed", "ing", "er", "ly", "y", "'s", "ish", "in")
_CLAUSE_END = re.compile(
    r"[.!?](?=\s|$|[\u4e00-\u9fff])| and (?=(?:my|our|i|i'm|we|he|she|they) )|"
    r" (?=(?:my|our) [a-z]+(?:'s)? (?:is|are|was|has|have|keeps?|needs)\b)|[;:,()。！？；：，、（）…~～\n]| - |"
    r" (?=but |so could |could you |can you )"
)
# A clause about the user's circumstances: it begins with a person, and wishes nothing.
_CIRCUMSTANCES = (
    r"(?:(?:and|so|but|well|hi|hey|hello|ok|okay|btw|because|since|as|for|also|plus|now|yes|yeah|if|"
    r"honestly|frankly|sadly|actually|basically|currently|lately|recently|"
    r"luckily|unfortunately|seriously|apparently|today|tomorrow|yesterday|turns out|you see|look|listen|"
    r"ugh|lol|ok so|"
    r"although|though) )*"
    r"(?:i|i'm|i've|i'd|i'll|we|we're|we've|he|he's|she|she's|they|they're|somebody|someone|everybody|"
    r"everyone|people"
    r"|(?:my|our|his|her) (?:little |old |older |younger |best |new |\d+[ -]year[ -]old )?(?:{people})(?:'s)?"
    r"|(?:my|our|his|her|their) (?:[a-z]+ )?(?:desk|eyes?|brain|head|day|week|life|fridge|room|house|"
    r"flat|car|dog|cat|hands?|"
    r"coffee|schedule|inbox|handwriting|maths?|deadline|meeting|class|lesson|semester|laptop|computer|phone|"
    r"excel|internet|wifi|bank|landlord|job|wall|notebook|exam|interview|course|homework|predecessor|manager|mind|"
    r"patience|nerves|back|train|flight|battery|glasses)s?(?= (?:is|are|was|were|has|have|just|always|never|keeps?|"
    r"starts?|went|got|died|broke|glazed|hurts?|says?|said|needs?|begins?|runs?)\b)"
    r"|(?:there is|there's) (?:an? |my )?(?:meeting|exam|interview|deadline|test tomorrow)"
    r"|it (?:is|was) (?:raining|cold|hot|late|monday|friday)|before i|as an? [a-z]+(?: [a-z]+)?,? i)\b"
)
_WISHES = re.compile(
    r"\b(?:ought|gone|wants?|needs?|needed|wanted|like|love|would|i'd|should|must|shall|has to|have to|had to|"
    r"please|make|give|"
    r"show|let|use|uses|using|only(?! (?:started|began|joined|just|learned|got|have|had))|with|expects?|"
    r"asks?|asked|can you|could you|will you|write|create|add|print|"
    r"choose|pick|select|enter|type in|set|adjust|customi[sz]e|specify|configure|pass|decide|control|toggle|switch|"
    r"run|call|called|named|save|put|list|count|find|search|and (?:then )?(?:the|do|a)|than|keep (?:the|"
    r"it|them|all)|looking for)\b"
)
# What a clause that only introduces a request does not contain.
_CONDITIONS = re.compile(
    r"\b(?:each|every|with|without|using|use|in|as|per|only|then|must|should|shall|instead|than|between|except|let|"
    r"assume|given|suppose|define|take|consider|imagine|pretend|act|where|when|if|replace|treat|always|never|first|"
    r"last|like|want|wants|need|needs|numbers?|files?|output|programs?|script|code|function|page|name|"
    r"named|called)\b"
)
_BEFORE_VERBS = frozenset(
    (
        "you",
        "please",
        "to",
        "and",
        "let's",
        "just",
        "kindly",
        "then",
        "also",
        "or",
        "pls",
        "so",
        "now",
        "but",
    )
)
_CIRCUMSTANCES_ZH = re.compile(
    r"(?:因为|由于|其实|最近|今天|昨天|明天|刚才|听说)*(?:我们?|俺|咱们?|老师|老板|领导|同事|朋友|孩子|"
    r"儿子|女儿|闺女|娃|孙子|侄子|外甥|老婆|老公|妈妈|爸爸|室友|同学|导师|客户|甲方|前同事|面试官|公司|学校|"
    r"小白|新手|萌新|本人|在下|零基础|初学者?|文科生|刚学|刚入门|脑子|记性|电脑小白|纯小白)"
)
_WISHES_ZH = re.compile(
    r"[要需想请帮把用给写做改删跑加减换]|希望|必须|应该|不能|不许|只|别|弄|让|求|找|列|数|打印|输出|生成|运行|保存"
)
# After these words, a noun is a part of what is asked for ("with points"), so that only function words are harmless.
_PARTS = re.compile(
    r"\b(?:(?<!write )(?<!make )(?<!run )(?<!show )(?<!do )(?:that|which)|with|including|plus|featuring|"
    r"supports?|supporting|(?:that|which|it|should|must|"
    r"page|app|program|script) "
    r"(?:has|have|needs?)) (?:(?:an?|the|some|my|our|their|its|your|own|nice|good|simple|little|several|many) )*$"
)


# After these words, a noun is the thing to make ("write a plan for …"), if these words follow it.
_MAKES = re.compile(
    r"\b(?:write|create|make|generate|build|prepare|design|draft)(?: me| us)? "
    r"(?:(?:an?|the|some|my|your|short|little|small|simple|nice|good|quick) )*$"
)
_FOLLOWS_NOUN = re.compile(r" (?:about|for|on|of|to|that|which|with|in)\b| ?[.,!?]| ?$")


# The letter "n" as a short form of "and", between two orders or wishes ("save it n run it").
_N_FOR_AND = re.compile(
    r"(?<=[a-z0-9⟧'])(?<!first)(?<!last)(?<! to)(?<!until)(?<!below)(?<!under)(?<!than)(?<!of)(?<!for)(?<!with)"
    r"(?<!number)(?<!any)(?<!given)(?<!limit)(?<!the)(?<! is)(?<! a)(?<!integer)(?<!where)(?<!if)(?<!when)"
    r" (?:n|nd) (?=[a-z⟦])(?!(?:numbers?|primes?|terms?|fibonacci|times|lines?|items|values|is|as|if|and|or|to|in|"
    r"that|which|from|up|given|given|example|error|app|empty|extra|index|infinite|input)\b)"
)


_ABBREVIATIONS = tuple(
    (re.compile(pattern), full)
    for pattern, full in (
        (r"(?<=\d) ?\.\.+ ?(?=\d)", " to "),
        (_N_FOR_AND, " and "),
        (r"(?<=[a-z]) 4 (?=⟦f|(?:me|my|us|the|a|him|her|this)\b|[a-z]*$)", " for "),
        (
            r"(?<=[a-z⟧]) 2 (?=(?:me|us|him|her|check|print|show|make|write|count|find|reverse)\b)",
            " to ",
        ),
        (r"\bup 2 (?=\d)", "up to "),
        (r"(?<=\d)'ll do\b", " will do"),
        (r"(?<=[a-z]) o (?=⟦f|(?:the|my|this|it)\b)", " of "),
        (
            r"(?<=[a-z0-9]) me (?=(?:own |old )?(?:lap|head|mate|mum|brain|eyes|boss|son|wife|job|work)\b)",
            " my ",
        ),
        (r"\bsum (?=(?:tests?|help|code)\b)", "some "),
        (r"\bid (?=like|love|want|appreciate|be)", "i'd "),
    )
)
"""Numbers, letters and other words in place of words, as (pattern, the words in full)."""


class Left(NamedTuple):
    """A part of a text that nothing covers, with its place."""

    start: int
    text: str


@cache
def read_words(name: str) -> frozenset[str]:
    """Return the words of a list in the folder ``words``."""
    return frozenset(word for line in read_lines(name) for word in line.split())


def read_blocks(name: str) -> list[list[str]]:
    """Return the lines of a list as blocks. A line in brackets begins a block."""
    blocks: list[list[str]] = []
    for line in read_lines(name):
        if line.startswith("["):
            blocks.append([])
        blocks[-1].append(line)
    return blocks


@lru_cache(maxsize=8)
def write_in_full(text: str) -> str:
    """Return a text in lower case with its short forms and frequent misspellings written in full."""
    for pattern, full in _ABBREVIATIONS:
        text = pattern.sub(full, text)
    text = _short_forms_chinese().sub(lambda match: _short_forms()[match[0]], text)
    return _WORD.sub(lambda match: _short_forms().get(match[0], match[0]), text)


def is_harmless(word: str) -> bool:
    """Return whether an English word in lower case changes nothing about a request."""
    harmless = read_words("harmless_english")
    plain = word.removesuffix("'s")
    return plain in harmless or (len(plain) > 4 and plain.endswith("s") and plain[:-1] in harmless)


def changes_meaning(word: str) -> bool:
    """Return whether a word, or the word that it is a form of, may change what a request asks for."""
    changing = read_words("other_work") | read_words("changing")
    return any(stem in changing for stem in _find_stems(word))


def _find_stems(word: str) -> Iterator[str]:
    for suffix in _SUFFIXES:
        stem = word.removesuffix(suffix) if suffix else word
        if suffix and stem == word:
            continue
        yield stem
        if suffix and len(stem) > 2:
            yield f"{stem}e"
            if suffix in {"es", "ed", "er"} and stem.endswith("i"):
                yield f"{stem[:-1]}y"
            if stem[-1] == stem[-2]:
                yield stem[:-1]


def changes_chinese(text: str, part: Left) -> bool:
    """Return whether a word that changes the meaning overlaps a part of a text."""
    words = read_words("other_work_chinese") | read_words("changing_chinese")
    end = part.start + len(part.text)
    return any(
        text[first:last] in words
        for first in range(max(0, part.start - LONGEST_CHINESE + 1), end)
        for last in range(max(first, part.start) + 1, min(len(text), first + LONGEST_CHINESE) + 1)
    )


def find_left(
    text: str, patterns: Sequence[re.Pattern[str]], *, is_making: bool, task_at: int = 0
) -> list[Left]:
    """Return the parts of a text that neither patterns nor harmless words cover.

    At each place the longest match counts. ``is_making`` says whether words like "write" are harmless. Clauses about
    the user's circumstances ("I only started last week") may contain any word, but no number and no file. So may
    clauses that introduce the request: those that end before ``task_at``, where the first word of the task is.
    """
    clauses = [
        (start, end)
        for start, end in split_clauses(text)
        if end - start <= _MAX_CACHED
        and (
            _tells_circumstances(text[start:end])
            or (end <= task_at and _introduces(text[start:end]))
        )
    ]
    left: list[Left] = []
    position = 0
    while position < len(text) and len(left) < 20:
        ends = [match.end() for pattern in patterns if (match := pattern.match(text, position))]
        ends.append(_match_chinese(text, position, is_making=is_making))
        # What follows is the same for many tasks; long texts would fill the cache.
        near = max(0, position - _LOOKS_BEHIND)
        match_idiom = _match_idiom if len(text) <= _MAX_CACHED else _match_idiom.__wrapped__
        ends.append(near + match_idiom(text[near:], position - near))
        if max(ends) > position:
            position = max(ends)
            continue
        token = _TOKEN.match(text, position)
        if token is None:
            position += 1
            continue
        position = token.end()
        if token[0][0].isalpha() and (
            (token[0].isascii() and _is_harmless_at(text, token, is_making=is_making))
            or any(start <= token.start() < end for start, end in clauses)
        ):
            continue
        left.append(Left(token.start(), token[0]))
    return _join_chinese(left)


def _is_harmless_at(text: str, token: re.Match[str], *, is_making: bool) -> bool:
    before = text[max(0, token.start() - 60) : token.start()]
    is_thing = _MAKES.search(before) and _FOLLOWS_NOUN.match(text, token.end())
    if is_making and (is_thing or _PARTS.search(before)):
        return token[0] in read_group("# Function words") | read_group("# People")
    return is_harmless(token[0])


def split_clauses(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of the clauses of a text, as (start, end)."""
    start = 0
    for match in _CLAUSE_END.finditer(text):
        yield start, match.start()
        start = match.end()
    yield start, len(text)


@lru_cache(maxsize=1_024)
def _tells_circumstances(clause: str) -> bool:
    """Return whether a clause only tells about the user, apart from phrases that change nothing."""
    clause = clause.strip()
    starts = _circumstances().match(clause) or _CIRCUMSTANCES_ZH.match(clause)
    if not starts:
        return False
    clause = clause[: starts.end()] + _phrases().sub(" ", clause[starts.end() :])
    if _CHINESE.search(clause):
        return bool(
            _CIRCUMSTANCES_ZH.match(clause)
            and not _WISHES_ZH.search(clause)
            and not any(word in clause for word in read_words("other_work_chinese"))
        )
    words = set(re.findall(r"[a-z][a-z0-9+#']*", clause))
    return bool(
        _circumstances().match(clause)
        and not _WISHES.search(clause)
        and not words & read_words("other_work")
    )


@lru_cache(maxsize=1_024)
def _introduces(clause: str) -> bool:
    """Return whether a clause before the request orders nothing and names no condition ("you know the drill: …")."""
    clause = _phrases().sub(" ", clause.strip()).strip()
    if _CHINESE.search(clause):
        return False  # In Chinese, what comes first often belongs to the order.
    words: list[str] = re.findall(r"[a-z][a-z0-9+#']*", clause)
    # An unknown word where an order has its verb may be the verb.
    is_order = any(
        not is_harmless(word) and (before is None or before in _BEFORE_VERBS)
        for before, word in zip([None, *words], words, strict=False)
    )
    return not (
        is_order
        or _CONDITIONS.search(clause)
        or any(
            word in read_words("other_work") or (not is_harmless(word) and changes_meaning(word))
            for word in words
        )
    )


@lru_cache(maxsize=4_096)
def _match_idiom(text: str, position: int) -> int:
    """Return the end of a harmless phrase, or of a frame of a request ("could I bother you for"), or the place."""
    phrase = _phrases().match(text, position)
    frame = _frames().match(text, position)
    if frame and set(re.findall(r"[a-z]+", frame[0])) & read_words("other_work"):
        frame = None
    return max(phrase.end() if phrase else position, frame.end() if frame else position)


def covers_chinese(text: str) -> bool:
    """Return whether a text consists of harmless Chinese words, as a request to make something has them."""
    position = 0
    while position < len(text):
        end = _match_chinese(text, position, is_making=True)
        if end == position:
            return False
        position = end
    return True


def _match_chinese(text: str, position: int, *, is_making: bool) -> int:
    """Return the end of the longest harmless Chinese word at a place, or the place."""
    if not _CHINESE.match(text, position):
        return position
    for size in range(LONGEST_CHINESE, 0, -1):
        word = text[position : position + size]
        if word in read_words("harmless_chinese") or (
            is_making and word in read_words("making_chinese")
        ):
            return position + len(word)
    return position


def _join_chinese(left: list[Left]) -> list[Left]:
    """Join neighbouring Chinese characters to one part."""
    joined: list[Left] = []
    for part in left:
        before = joined[-1] if joined else None
        if (
            before
            and before.start + len(before.text) == part.start
            and _CHINESE.match(part.text)
            and _CHINESE.match(before.text)
        ):
            joined[-1] = Left(before.start, before.text + part.text)
        else:
            joined.append(part)
    return joined


_WORD = re.compile(r"(?<![a-z0-9_⟦'])[a-z][a-z']*(?![a-z0-9_'⟧])")


@cache
def read_lines(name: str) -> tuple[str, ...]:
    """Return the lines of a list in the folder ``words``, without comments."""
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line.strip() and not line.startswith("#"))


@cache
def _short_forms() -> dict[str, str]:
    lines = (*read_lines("shorthand"), *read_lines("shorthand_chinese"))
    return dict(line.split(" = ") for line in lines)


@cache
def _short_forms_chinese() -> re.Pattern[str]:
    forms = [form for form in _short_forms() if _CHINESE.search(form)]
    return re.compile("|".join(sorted(forms, key=len, reverse=True)))


@cache
def _phrases() -> re.Pattern[str]:
    # "For my rust class" is no harmless phrase: any word stands for none of the names of languages and programs.
    names = "|".join(map(re.escape, read_group("# Languages and programs", "other_work")))
    lines = "|".join(read_lines("harmless_phrases")).replace("[a-z]+", "{any}")
    phrases = lines.replace("{any}", rf"(?!(?:{names})\b)[a-z]+")
    return re.compile(rf"(?<![a-z0-9_'])(?:{phrases})(?![a-z0-9_'])")


@cache
def _frames() -> re.Pattern[str]:
    lines = read_lines("harmless_frames")
    return re.compile(rf"(?<![a-z0-9_'])(?:{'|'.join(lines)})(?![a-z0-9_'])")


@cache
def _circumstances() -> re.Pattern[str]:
    return re.compile(_CIRCUMSTANCES.replace("{people}", "|".join(read_group("# People"))))


@cache
def read_group(title: str, name: str = "harmless_english") -> frozenset[str]:
    """Return the words of the lines that follow a title in a list."""
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    words: list[str] = []
    for line in lines[lines.index(title) + 1 :]:
        if line.startswith("#"):
            break
        words += line.split()
    return frozenset(words)
