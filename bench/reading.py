"""Draw random texts of the code for a reader who has not seen the code.

``python -m bench.reading --seed 7`` prints 30 strings that users see and 30 public docstrings, numbered, each with
its file and line. The same seed and tree give the same texts. The reader notes which texts needed a second reading.
"""

import argparse
import ast
import random
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

from bench.source import File, is_written, read

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "accounts",
    "billing",
    "compat",
    "conversations",
    "integrations",
    "lib",
    "openhands_site",
)
KEYWORDS = {"sentence", "detail", "help", "help_text", "label", "description"}
"""Names of arguments and class attributes whose strings users read."""
CALLS = {"success", "error", "warning", "info", "write", "step", "CommandError", "ValidationError"}
"""Functions whose first argument users read: messages of pages, output of commands, refusals of forms."""
Text = tuple[str, str]
"""The place of a text, and the text."""


def docstrings(file: File) -> Iterator[Text]:
    """Yield the docstrings of public modules, classes, functions and methods."""
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = getattr(node, "name", file.module)
        if not name.startswith("_") and (text := ast.get_docstring(node)):
            yield f"{file.path} {name}", text


def user_strings(file: File) -> Iterator[Text]:
    """Yield the strings of a Python file that users read."""
    for node in ast.walk(file.tree):
        match node:
            case ast.keyword(arg=str(name), value=value) if name in KEYWORDS:
                yield from _words(file, value)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in KEYWORDS:
                yield from _words(file, value)
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=[value, *_]) if (
                name in CALLS
            ):
                yield from _words(file, value)
            case ast.Raise(exc=ast.Call(args=[value, *_])):
                yield from _words(file, value)


def _words(file: File, node: ast.expr) -> Iterator[Text]:
    """Yield a string literal that is a phrase; the values in an f-string are shown as ``{…}``."""
    if isinstance(node, ast.Constant):
        text = node.value if isinstance(node.value, str) else ""
    elif isinstance(node, ast.JoinedStr):
        text = "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in node.values
        )
    else:
        return
    if text.count(" ") >= 2:
        yield f"{file.path}:{node.lineno}", text


def page_texts(path: Path) -> Iterator[Text]:
    """Yield the texts between the tags of a template."""
    source = re.sub(
        r"{#.*?#}|{%\s*comment.*?endcomment\s*%}", "", path.read_text(), flags=re.DOTALL
    )
    source = re.sub(r"{{.*?}}|{%.*?%}", "{…}", source)
    for text in re.findall(r">([^<>]+)<", source):
        words = " ".join(unescape(text).split())
        if len(re.findall(r"[A-Za-z]{2,}", words)) >= 3:
            yield str(path.relative_to(ROOT)), words


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw texts for a reader.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--number", type=int, default=30, help="texts of each kind")
    options = parser.parse_args()
    files = [file for name in PACKAGES for file in read(ROOT, name) if is_written(file.path)]
    strings = [text for file in files for text in user_strings(file)]
    strings += [
        text for path in sorted(ROOT.glob("templates/**/*.html")) for text in page_texts(path)
    ]
    public = [text for file in files for text in docstrings(file)]
    draw = random.Random(options.seed)
    for kind, texts in (("Strings that users see", strings), ("Public docstrings", public)):
        print(f"\n# {kind} ({options.number} of {len(texts)}, seed {options.seed})\n")
        for number, (place, words) in enumerate(draw.sample(texts, options.number), start=1):
            print(f"{number}. {words}\n   [{place}]\n")


if __name__ == "__main__":
    main()
