"""Names and titles inside Markdown and plain text, where they must not become markup, links or further lines."""

import re

_WEIRD = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
# No character in it is markup here, and without a dot, colon or at sign no program makes a link of it.
_HARMLESS = re.compile(r"[^\W\d_](?:[^\W_]|[ ,'()?-])*")
_BACKTICKS = re.compile("`+")
_LINKED = re.compile(r"(?<=\S)(?=[.@:/])|(?<=[.@:/])(?=\S)")


def one_line(text: str) -> str:
    """Return a text as one line: whitespace is collapsed, and control and direction characters become U+FFFD.

    Direction characters (Unicode Standard Annex 9) could show other text than the one that is there.
    """
    return _WEIRD.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))


def markdown_inline(text: str) -> str:
    """Return a text for one line of Markdown. A text with more than words becomes code.

    Nothing is markup in a code span (CommonMark 0.31, section 6.1), and programs that turn addresses in texts into
    links, such as GitHub, skip it. Backslash escapes do not stop those. An empty text becomes ``(empty)``.
    """
    line = one_line(text)
    if not line:
        return "(empty)"
    if _HARMLESS.fullmatch(line):
        return line
    fence = "`" * (1 + max(map(len, _BACKTICKS.findall(line)), default=0))
    # CommonMark strips one space at each end of a code span.
    inner = f" {line} " if line[0] in "` " or line[-1] in "` " else line
    return f"{fence}{inner}{fence}"


def without_links(text: str) -> str:
    """Return a text as one line in which mail programs recognize no address: "a.example" becomes "a . example"."""
    return _LINKED.sub(" ", one_line(text))
