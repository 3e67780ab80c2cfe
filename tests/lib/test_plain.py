"""Names in Markdown and in plain text."""

import time

import pytest

from lib.plain import markdown_inline, one_line, without_links


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Fix the tests", "Fix the tests"),
        ("Why, and (how)?", "Why, and (how)?"),
        ("Prüfe die Größe", "Prüfe die Größe"),
        ("", "(empty)"),
        (" \n ", "(empty)"),
        ("a_b", "`a_b`"),
        ("gpt-5.1", "`gpt-5.1`"),
        ("owner/name", "`owner/name`"),
        ("a`b", "``a`b``"),
        ("`a`", "`` `a` ``"),
        ("```", "```` ``` ````"),
        ("a\n# b", "`a # b`"),
        ("a\u202eb\x00", "`a\ufffdb\ufffd`"),
        ("- a", "`- a`"),
        ("1", "`1`"),
    ],
)
def test_text_that_is_more_than_words_is_code_in_markdown(text, line):
    assert markdown_inline(text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Team of Alice", "Team of Alice"),
        ("https://evil.example/a", "https : / / evil . example / a"),
        ("www.evil.example", "www . evil . example"),
        ("a@evil.example", "a @ evil . example"),
        ("Team\r\nBcc: x@evil.example", "Team Bcc : x @ evil . example"),
    ],
)
def test_mail_program_finds_no_address(text, line):
    assert without_links(text) == line


def test_lone_surrogates_and_separators_do_not_make_lines():
    assert one_line("a\u2028b\ud800\x85c\x1b[31m") == "a b\ufffd c\ufffd[31m"


@pytest.mark.parametrize(
    "piece", ["a", "a ", "`", "` ", "a,", "-", "(a", ".", "a.", "1", "\n", "\u202e"]
)
def test_time_is_linear(piece):
    text = piece * (1_000_000 // len(piece)) + "\u202e"
    began = time.perf_counter()

    markdown_inline(text)
    without_links(text)

    assert time.perf_counter() - began < 20
