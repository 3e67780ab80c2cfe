"""The analysis of a source tree without importing it: its files, its imports and the import cycles."""

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
"""Kinds of imports, strongest first: when a module is loaded, inside a function, and under `if TYPE_CHECKING`."""


class File:
    """A Python file. ``path`` is relative to the root of the tree."""

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
        self.filled_lines = _count_filled(self.text)
        self.code_lines = self.filled_lines - self.comment_lines

    @cached_property
    def docstring_lines(self) -> int:
        """The number of lines of docstrings, and of strings below the variables they document."""
        nodes = (node.value for node in ast.walk(self.tree) if isinstance(node, ast.Expr))
        values = (node.value for node in nodes if isinstance(node, ast.Constant))
        return sum(_count_filled(value) for value in values if isinstance(value, str))


class Import(NamedTuple):
    """An import of a module by another module. If there are several, ``kind`` is the strongest kind."""

    importer: str
    imported: str
    kind: str

    def __str__(self) -> str:
        mark = "" if self.kind == KINDS[0] else f" ({self.kind})"
        return f"{self.importer} -> {self.imported}{mark}"


def read(root: Path, folder: str) -> list[File]:
    """Read every Python file below a folder of the tree, except in hidden folders."""
    paths = (path.relative_to(root) for path in sorted((root / folder).rglob("*.py")))
    return [File(root, p) for p in paths if not any(part.startswith(".") for part in p.parts)]


def is_written(path: Path) -> bool:
    """Return whether a person wrote a file: it is neither a migration nor generated code."""
    return "migrations" not in path.parts and "_pb2" not in path.name


def imports_of(files: list[File]) -> list[Import]:
    """Return the imports among the files, one per pair of modules.

    As in import-linter, ``from package import module`` is an import of the module, not of the package.
    """
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
    """Yield the imported names with their kind. Relative imports are not handled, because ruff bans them."""
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
    """Return the strongly connected components with more than one node, largest first."""
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
    rings = {frozenset(n for n in seen if s in reached.get(n, ())) for s, seen in reached.items()}
    return sorted((sorted(nodes) for nodes in rings if nodes), key=lambda ring: (-len(ring), ring))


def sibling_cycles(imports: list[Import]) -> dict[str, list[list[str]]]:
    """Return the cycles among the children of each package, where a child includes all modules below it.

    The package ``.`` is the root of the tree.
    """
    pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for edge in imports:
        here, there = edge.importer.split("."), edge.imported.split(".")
        for depth, children in enumerate(zip(here, there, strict=False)):
            if children[0] != children[1]:
                pairs[".".join(here[:depth]) or "."].add(children)
                break
    return {package: rings for package in sorted(pairs) if (rings := cycles(pairs[package]))}


def _count_filled(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip())
