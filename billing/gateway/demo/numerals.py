"""Numbers in words, in English and in Chinese, rewritten as digits."""

import re

_UNITS = {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
    "nineteen": 19,
}
_TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000}
_WORD = "|".join([*_UNITS, *_TENS, *_SCALES, "dozen"])
_ENGLISH = re.compile(
    rf"\b(?:a (?=hundred|thousand|million|dozen))?(?:{_WORD})(?:(?:[ -]|(?<=hundred) and |"
    rf"(?<=thousand) and )(?:{_WORD}))*\b"
)
_GROUPED = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w.,]*\d)")
_DIGITS = {
    character: value
    for value, characters in enumerate(
        ["零〇", "一", "二两", "三", "四", "五", "六", "七", "八", "九"]
    )
    for character in characters
}
_CHINESE = re.compile(r"[零〇一二两三四五六七八九十百千万]+")
# A single Chinese digit is part of ordinary words (一个, 一下), so it counts only beside these characters.
_BEFORE = "近前到至第于过出是"
# A "一" before these characters is no number (一样, 一些).
_AFTER_ONE = "样些点起直般定边致"
_CHINESE_SCALES = {"十": 10, "百": 100, "千": 1_000, "万": 10_000}


def write_digits(text: str) -> str:
    """Return a text in lower case with its numbers in words replaced by digits. "One" alone stays a word."""
    text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    text = _ENGLISH.sub(_from_english, text)
    return _CHINESE.sub(_from_chinese, text)


def _from_english(match: re.Match[str]) -> str:
    words = [word for word in re.split(r"[ -]", match[0]) if word not in {"a", "and"}]
    if words == ["one"]:
        return match[0]
    total = current = 0
    for word in words:
        if word == "dozen":
            current = (current or 1) * 12
        elif word == "hundred":
            current = (current or 1) * 100
        elif word in _SCALES:
            total += (current or 1) * _SCALES[word]
            current = 0
        else:
            current += _UNITS.get(word) or _TENS[word]
    return str(total + current)


def _from_chinese(match: re.Match[str]) -> str:
    characters = match[0]
    before = match.string[match.start() - 1 : match.start()]
    if characters == "一" and match.string[match.end() :].startswith(tuple(_AFTER_ONE)):
        return characters
    if len(characters) == 1 and characters in _DIGITS and before not in _BEFORE:
        return characters
    if len(characters) == 1 and not before.strip():
        return characters if characters in _DIGITS else str(_CHINESE_SCALES[characters])
    if all(character in _DIGITS for character in characters):
        return "".join(str(_DIGITS[character]) for character in characters)
    total = section = digit = 0
    for character in characters:
        if character in _DIGITS:
            digit = _DIGITS[character]
        elif character == "万":
            total, section, digit = (section + digit or 1) * 10_000, 0, 0
        else:
            section += (digit or 1) * _CHINESE_SCALES[character]
            digit = 0
    return str(total + section + digit)
