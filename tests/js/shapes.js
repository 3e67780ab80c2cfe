// Inputs that make careless parsers slow, by name. Each is a function from a length to a text of about this length.

const fill = (piece, length) => piece.repeat(Math.ceil(length / piece.length)).slice(0, length);
const growing = (piece, join) => (length) => {
  const parts = [];
  for (let count = 1, size = 0; size < length; count++) {
    const part = piece(count) + join;
    parts.push(part);
    size += part.length;
  }
  return parts.join("").slice(0, length);
};
const repeated = (piece, { before = "", after = "" } = {}) => (length) => before + fill(piece, length) + after;
const halves = (first, second) => (length) => fill(first, length / 2) + fill(second, length / 2);

export const MARKDOWN = {
  "backtick runs of growing length": growing((count) => "`".repeat(count), "a"),
  "one backtick run": repeated("`"),
  "backtick runs of two lengths": repeated("`a ``b "),
  "opening brackets": repeated("["),
  "nested brackets": halves("[", "]"),
  "nested brackets with text": halves("[a", "]"),
  "nested images": repeated("![[]()"),
  "opening images": repeated("!["),
  "empty links": repeated("[]( "),
  "opening links": repeated("[]("),
  "open destinations": repeated("[a](<b"),
  "nested destinations": halves("[a](b", ")"),
  "open titles": repeated("[a](b '"),
  "opening parentheses": repeated("(", { before: "[a](" }),
  "references": repeated("[a]: b\n", { after: "[a]" }),
  "open references": repeated("[a]:\n"),
  "open reference titles": repeated('[a]: b "\n'),
  "stars and underscores": repeated("*_"),
  "opening emphasis": repeated("*a_ "),
  "emphasis chains": repeated("c* ", { before: "a**b" }),
  "emphasis of two lengths": repeated("*a **a "),
  "underscores": repeated("_a"),
  "strikethrough": repeated("~~a"),
  "less-than signs": repeated("<"),
  "open tags": repeated("<a "),
  "open comments": repeated("<!--"),
  "open instructions": repeated("<?"),
  "autolinks": repeated("<http://a>"),
  "open autolinks": repeated("<http:a"),
  "addresses": repeated("http://a "),
  "address starts": repeated("http://"),
  "address of stars": repeated("*", { before: "http://a.b/" }),
  "address of brackets": repeated("[", { before: "http://a.b/" }),
  "address of colons": repeated("a:", { before: "http://" }),
  "address of labels": repeated("a.", { before: "http://" }),
  "address of hyphens": repeated("a-", { before: "http://" }),
  "mail addresses": repeated("a@b.c "),
  "mail address of one part": repeated("a", { after: "@b.c" }),
  "mailto starts": repeated("mailto:"),
  "nested quotes": repeated("> "),
  "quotes of growing depth": growing((count) => ">".repeat(count), "a\n"),
  "deep quotes": repeated(`${">".repeat(60)}\n`),
  "lazy quote": repeated("a\n", { before: "> " }),
  "nested lists": repeated("- "),
  "lists of growing depth": growing((count) => `${"  ".repeat(count)}- a`, "\n"),
  "numbered nested lists": repeated("1. "),
  "lists in quotes": repeated(">- "),
  "table of many rows": repeated("|c|d|\n", { before: "|a|b|\n|-|-|\n" }),
  "table of many columns": (length) => `${fill("|a", length / 2)}|\n${fill("|-", length / 2)}|\n|\n`,
  "table of missing cells": (length) => `${fill("a|", length / 3)}\n${fill("-|", length / 3)}\n${fill("\nx|", length / 3)}`,
  "rows without a table": repeated("a|b\n"),
  "entities": repeated("&amp;"),
  "ampersands": repeated("&"),
  "open entities": repeated("&#x1"),
  "one long line": repeated("a"),
  "one line of spaces": repeated(" ", { before: "a", after: "b" }),
  "line breaks": repeated("\n", { before: "a", after: "b" }),
  "backslashes": repeated("\\"),
  "tabs": repeated("\t"),
  "list tabs": repeated("-\t"),
  "rules": repeated("- - -\n"),
  "almost a rule": repeated("* ", { after: "x" }),
  "fences": repeated("```\n"),
  "fences of growing length": growing((count) => "`".repeat(count + 2), "\n"),
  "headings": repeated("# "),
  "almost a heading": repeated(" #", { before: "#" }),
  "underlined headings": repeated("a\n=\n"),
  "long underlined heading": repeated("a\n", { after: "=" }),
  "bold, bracket and backtick": repeated("**[`"),
  "NUL characters": repeated("\0"),
};

export const TERMINAL = {
  "lines": repeated("hello world\n"),
  "escapes": repeated("\x1b"),
  "open sequences": repeated("\x1b["),
  "one long parameter": repeated("1", { before: "\x1b[" }),
  "many parameters": repeated("1;", { before: "\x1b[", after: "m" }),
  "open titles": repeated("\x1b]a"),
  "one open title": repeated("a", { before: "\x1b]" }),
  "moves": repeated("\x1b[4096C", { after: "x" }),
  "moves and letters": repeated("\x1b[4096Cx"),
  "moves on many lines": repeated("\x1b[4096Cx\n"),
  "erasing again": halves("x", "\x1b[1K"),
  "erasing from a far column": halves("x", "\ry\x1b[999C\x1b[999C\x1b[1K"),
  "erasing to the end": halves("x", "\r\x1b[Kx"),
  "colors": repeated("\x1b[38;5;1;48;2;1;2;3ma"),
  "bold and plain": repeated("\x1b[1ma\x1b[0mb"),
  "tabs": repeated("\t"),
  "backspaces": repeated("a\b"),
  "carriage returns": repeated("abc\r"),
  "line breaks": repeated("\n", { after: "x" }),
  "character sets": repeated("\x1b("),
};

const lines = (line, length, each = 8) => Array.from({ length: length / each }, (_, index) => line(index)).join("\n");

/** Pairs of texts to compare. */
export const DIFF = {
  "equal": (length) => [fill("a\n", length), fill("a\n", length)],
  "different": (length) => [lines((i) => `a${i}`, length), lines((i) => `b${i}`, length)],
  "swapped": (length) => [fill("a\nb\n", length), fill("b\na\n", length)],
  "every third line": (length) => [fill("a\nb\nc\n", length), fill("a\nc\n", length)],
  "reversed": (length) => [lines((i) => `a${i}`, length), lines((i) => `a${-i}`, length)],
  "long similar lines": (length) => [lines((i) => "x".repeat(500) + (i % 3), length, 500), lines((i) => "x".repeat(500) + (i % 2), length, 500)],
  "other line endings": (length) => [fill("a\r\n", length), fill("a\n", length)],
  "one line moved": (length) => [`x\n${fill("a\n", length)}`, `${fill("a\n", length)}x\n`],
};
