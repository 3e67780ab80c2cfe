"""A source tree read as text: its files, which module imports which, and the cycles in that. Imports none of it."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

KINDS = ("import", "deferred", "typing")
"""Of imports, the strongest first: when the module loads, inside a function, under `if TYPE_CHECKING`."""


class File:
    """One Python file; ``path`` is relative to the tree."""

    def __init__(self, root: Path, path: Path) -> None:
        self.path, self.text = path, (root / path).read_text(encoding="utf-8")
        parts = path.with_suffix("").parts
        self.module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.tree = ast.parse(self.text)
        self.functions = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        self.comments = [token for token in tokens if token.type == tokenize.COMMENT]
        self.comment_lines = sum(token.line.lstrip().startswith("#") for token in self.comments)
        self.filled_lines = _filled(self.text)
        self.code_lines = self.filled_lines - self.comment_lines

    @cached_property
    def docstring_lines(self) -> int:
        """Of docstrings, and of strings that stand below what they explain."""
        nodes = (node.value for node in ast.walk(self.tree) if isinstance(node, ast.Expr))
        values = (node.value for node in nodes if isinstance(node, ast.Constant))
        return sum(_filled(value) for value in values if isinstance(value, str))


class Import(NamedTuple):
    """One module imports another; ``kind`` is the strongest of its ways to do so."""

    importer: str
    imported: str
    kind: str

    def __str__(self) -> str:
        mark = "" if self.kind == KINDS[0] else f" ({self.kind})"
        return f"{self.importer} -> {self.imported}{mark}"


def read(root: Path, folder: str) -> list[File]:
    """Read every Python file below a folder of the tree, hidden folders aside."""
    paths = (path.relative_to(root) for path in sorted((root / folder).rglob("*.py")))
    return [File(root, p) for p in paths if not any(part.startswith(".") for part in p.parts)]


def is_written(path: Path) -> bool:
    """Tell source that people write from migrations and generated code."""
    return "migrations" not in path.parts and "_pb2" not in path.name


def imports_of(files: list[File]) -> list[Import]:
    """Resolve imports among the files as import-linter does, one a pair: a module, not the package around it."""
    modules = {file.module for file in files}
    kinds: dict[tuple[str, str], str] = {}
    for file in files:
        for name, kind in _statements(file.tree.body, KINDS[0]):
            imported = name if name in modules else name.rpartition(".")[0]
            if imported in modules and imported != file.module:
                pair = file.module, imported
                kinds[pair] = min(kind, kinds.get(pair, kind), key=KINDS.index)
    return sorted(Import(*pair, kind) for pair, kind in kinds.items())


def _statements(nodes: Iterable[ast.AST], kind: str) -> Iterator[tuple[str, str]]:
    """Walk to what is imported, by kind. Relative imports do not occur: the linter bans them."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((name.name, kind) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{name.name}", kind) for name in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _statements(node.body, max(kind, "deferred", key=KINDS.index))
        elif isinstance(node, ast.If) and re.fullmatch(
            r"(\w+\.)?TYPE_CHECKING", ast.unparse(node.test)
        ):
            yield from _statements(node.body, "typing")
            yield from _statements(node.orelse, kind)
        else:
            yield from _statements(ast.iter_child_nodes(node), kind)


def cycles(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Find the strongly connected components of more than one node, largest first."""
    ahead: dict[str, set[str]] = defaultdict(set)
    for importer, imported in pairs:
        if importer != imported:
            ahead[importer].add(imported)
    reached: dict[str, set[str]] = {}
    for start in list(ahead):
        seen, waiting = set(), [start]
        while waiting:
            new = ahead.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        reached[start] = seen
    found = {frozenset(n for n in seen if s in reached.get(n, ())) for s, seen in reached.items()}
    return sorted((sorted(nodes) for nodes in found if nodes), key=lambda ring: (-len(ring), ring))


def sibling_cycles(imports: list[Import]) -> dict[str, list[list[str]]]:
    """Squash each child of a package with all below it, then find the cycles among children; ``.`` is the tree."""
    pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for found in imports:
        here, there = found.importer.split("."), found.imported.split(".")
        for depth, children in enumerate(zip(here, there, strict=False)):
            if children[0] != children[1]:
                pairs[".".join(here[:depth]) or "."].add(children)
                break
    return {package: rings for package in sorted(pairs) if (rings := cycles(pairs[package]))}


def _filled(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip())
