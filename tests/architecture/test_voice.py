"""Words that this project does not use, because readers had to decode them.

``docs/architecture.md`` (Voice) has all rules of writing. These tests check the rules that a program can check.
"""

import ast
import io
import re
import subprocess
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PATTERNS = (
    *("*.py", "*.html", "*.js", "*.css", "*.md", "*.proto", "*.toml", "*.yml", "*.conf", "*.cfg"),
    *("Makefile", ".env.example", ".ci/run"),
)
GENERATED = re.compile(r"/migrations/|_pb2|^static/vendor/")
PHRASES = {
    "mended": "fixed",
    "mends": "fixes",
    "whoever": "the caller, any user",
    "whosoever": "the caller, any user",
    "all the same": "anyway",
    "of before": "previous",
    "anew": "again",
    "afresh": "again",
    "told": "sent, shown, reported",
    "for good": "permanently",
    "your word is kept": "thanks for your feedback",
    "is wont": "usually",
}
"""Phrases that no text may contain, with a replacement for each."""
# A phrase may continue on the next line.
PHRASE = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b".replace(" ", r"\s+"), re.IGNORECASE)
BEGINNING = re.compile(r"The same\b|Who\b|Whose\b|What\b|Whatever\b|Which\b|Whoever\b")
"""Words that no docstring may begin with: it names its subject or begins with a verb."""
NAME = re.compile(r"(?:^|_)(?:told|wanted|mended|whoever|had|taken)(?:_|$)")
"""Words that no Python name may contain."""
COLUMNS = {"is_wanted"}
"""Names of database columns, which must not change."""


def list_files():
    """Return the tracked files by top-level folder; those of the root folder are under ``.``."""
    names = subprocess.run(
        ["git", "ls-files", *PATTERNS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    files = defaultdict(list)
    for name in names:
        # This file has to contain the phrases.
        if not GENERATED.search(name) and ROOT / name != Path(__file__):
            files[name.partition("/")[0] if "/" in name else "."].append(name)
    return files


def find_phrases(text, line=1):
    """Yield (line, complaint) for each phrase in a text whose first line has the number ``line``."""
    for match in PHRASE.finditer(text):
        phrase = " ".join(match[0].split())
        number = line + text.count("\n", 0, match.start())
        yield number, f"{phrase!r}; write: {PHRASES[phrase.lower()]}"


def find_beginnings(tree):
    """Yield (line, complaint) for each docstring, also of a constant or field, with a wrong beginning."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                if match := BEGINNING.match(text.lstrip()):
                    yield node.lineno, f"a docstring begins with {match[0]!r}; name the subject"


def find_names(tree):
    """Yield (line, complaint) for each name that is defined or used and contains a word of ``NAME``."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id=name)
                | ast.Attribute(attr=name)
                | ast.arg(arg=name)
                | ast.keyword(arg=str(name))
                | ast.alias(asname=str(name))
                | ast.ExceptHandler(name=str(name))
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                if NAME.search(name) and name not in COLUMNS:
                    yield node.lineno, f"the name {name!r}; name the thing"


def find_complaints(name):
    """Yield a sentence for each violation in a file."""
    source = (ROOT / name).read_text()
    if name.endswith(".py"):
        complaints = []
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                complaints += find_phrases(token.string, token.start[0])
        tree = ast.parse(source)
        complaints += [*find_beginnings(tree), *find_names(tree)]
    else:
        complaints = find_phrases(source)
    for line, complaint in complaints:
        yield f"{name}:{line}: {complaint}"


@pytest.mark.parametrize("folder", list_files())
def test_files_of_folder_contain_no_forbidden_words(folder):
    complaints = [text for name in list_files()[folder] for text in find_complaints(name)]

    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("a.py", "# It was mended.", "1: 'mended'; write: fixed"),
        ("a.py", 'x = """one\nAll the\nsame"""', "2: 'All the same'; write: anyway"),
        ("a.py", '"""The same as above."""', "1: a docstring begins with 'The same'"),
        ("a.py", 'X = 1\n"""What it is."""', "2: a docstring begins with 'What'"),
        ("a.py", "def f():\n    told = 1", "2: the name 'told'"),
        ("a.py", "def is_taken(): pass", "1: the name 'is_taken'"),
        ("a.py", "f(wanted=1)", "1: the name 'wanted'"),
        ("a.py", "x.had_one", "1: the name 'had_one'"),
        ("a.py", "x.is_wanted, retold, mistaken", None),
        ("a.html", "<p>Try it\nanew.</p>", "2: 'anew'; write: again"),
        ("a.md", "renewed, untold", None),
    ],
)
def test_guard_finds_each_forbidden_form(tmp_path, monkeypatch, name, source, complaint):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / name).write_text(source)

    complaints = list(find_complaints(name))

    assert len(complaints) == (complaint is not None)
    assert all(text.startswith(f"{name}:{complaint}") for text in complaints)
