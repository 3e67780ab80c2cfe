"""`python -m bench.structure [TREE] [--json]`: measure the structure of a source tree, to compare two checkouts.

The script reads files and imports nothing of the project. TREE may have one of two layouts: with
``openhands_site/lib`` and a ``compat`` package in each app, or with ``lib`` and ``compat`` beside the apps.

Source is the Python code of the top-level packages except tests, benchmarks and examples. Sizes exclude migrations and
generated code. A code line is a line that is neither blank nor only a comment. Lines of docstrings are code lines.
"""

import argparse
import json
import re
import shutil
import subprocess
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path
from typing import Any

from bench.source import KINDS, File, Import, cycles, imports_of, is_written, read, sibling_cycles

NOT_SOURCE = {"tests", "bench", "examples", "docs", "deploy"}
APPS = ("lib", "accounts", "billing", "conversations", "integrations", "compat", "openhands_site")
"""The apps in import order, lowest first. ``openhands_site.lib`` counts as ``lib``."""
EDGES = (
    *("api", "web", "pages", "page", "views", "urls", "admin", "tasks", "webhooks", "management"),
    *("consumers", "sockets", "realtime", "routing", "grpc", "sign_in", "manager"),
)
LAYERS = {"models": 0, "queue": 1, "services": 2, **dict.fromkeys(EDGES, 3), "compat": 4}
"""The layers inside an app by number, lowest first. The first part of a module's name with a key decides."""
LARGE_FILE = 400


def app_of(module: str) -> str:
    """Return the app of a module, independent of the layout."""
    parts = module.split(".")
    return "lib" if parts[:2] == ["openhands_site", "lib"] else parts[0]


def layer_of(module: str) -> int | None:
    """Return the layer of a module inside its app, or None if no part of its name is a layer."""
    for part in module.split(".")[1:]:
        for word in (part, part.removesuffix("s"), *part.split("_")):
            if word in LAYERS:
                return LAYERS[word]
    return None


def upward(files: list[File], imports: list[Import]) -> dict[str, Any]:
    """Return the imports that violate the order, between apps and between the layers of one app."""
    between, inside = [], []
    for edge in imports:
        low, high = app_of(edge.importer), app_of(edge.imported)
        layers = layer_of(edge.importer), layer_of(edge.imported)
        if low == high and None not in layers and layers[0] < layers[1]:
            inside.append(edge)
        elif {low, high} <= set(APPS) and APPS.index(low) < APPS.index(high):
            between.append(edge)
    pairs = Counter(f"{app_of(edge.importer)} -> {app_of(edge.imported)}" for edge in between)
    report: dict[str, Any] = {}
    for name, edges in (("between apps", between), ("inside an app", inside)):
        kinds = Counter(edge.kind for edge in edges)
        report[name] = {"but typing": len(edges) - kinds["typing"]} | {k: kinds[k] for k in KINDS}
        report[f"{name}, each"] = [str(edge) for edge in edges]
    return report | {
        "between apps, by pair": dict(pairs.most_common()),
        "modules": len(files),
        "modules without a layer": sum(layer_of(file.module) is None for file in files),
        "packages outside the order": sorted({app_of(f.module) for f in files} - set(APPS)),
    }


def all_cycles(imports: list[Import]) -> dict[str, Any]:
    """Return the cycles of modules, of apps and of siblings, with and without imports inside functions."""
    report: dict[str, Any] = {}
    for name, kinds in (("with deferred", KINDS[:2]), ("without deferred", KINDS[:1])):
        edges = [edge for edge in imports if edge.kind in kinds]
        modules = cycles((edge.importer, edge.imported) for edge in edges)
        apps = cycles((app_of(edge.importer), app_of(edge.imported)) for edge in edges)
        siblings = [(p, ring) for p, rings in sibling_cycles(edges).items() for ring in rings]
        report |= {
            f"of modules, {name}": {"cycles": len(modules), "modules": sum(map(len, modules))},
            f"of modules, {name}, each": [_ring(nodes) for nodes in modules],
            f"of apps with lib apart, {name}, each": [_ring(nodes) for nodes in apps],
            f"of siblings, {name}": {
                "cycles": len(siblings),
                "packages": len({package for package, _ in siblings}),
                "siblings": sum(len(nodes) for _, nodes in siblings),
            },
            f"of siblings, {name}, each": [f"{p}: {_ring(nodes)}" for p, nodes in siblings],
        }
    return report


def folder_sizes(files: list[File]) -> dict[str, Any]:
    """Return the sizes of apps, groups and rooms.

    A group is a package of an app, or the modules directly in the app. A folder counts if it contains Python files.
    """
    total = sum(file.code_lines for file in files)

    def shares(name_of: Callable[[File], str]) -> dict[str, dict[str, float]]:
        lines: Counter[str] = Counter()
        for file in files:
            lines[name_of(file)] += file.code_lines
        numbers = Counter(map(name_of, files))
        return {
            name: {"lines": count, "percent": round(100 * count / total, 1), "files": numbers[name]}
            for name, count in lines.most_common()
        }

    def group(file: File) -> str:
        app, *rest = file.path.parts
        return f"{app}/{rest[0]}" if len(rest) > 1 else f"{app}/*.py"

    parts = {
        "apps": shares(lambda file: app_of(file.module)),
        "groups": shares(group),
        "rooms": shares(lambda file: str(file.path.parent)),
    }
    first = {name: next(iter(each.items())) for name, each in parts.items()}
    largest = {f"largest of {n}": {"name": of} | figures for n, (of, figures) in first.items()}
    return {"code lines": total} | largest | parts


def sizes(files: list[File]) -> dict[str, Any]:
    """Return the lengths in lines of functions and of non-empty files, and the modules directly in an app."""
    functions = sorted(
        ((node.end_lineno or 0) - node.lineno + 1, f"{file.path}:{node.name}")
        for file in files
        for node in file.functions
    )
    whole = sorted((len(file.text.splitlines()), str(file.path)) for file in files if file.text)
    loose = defaultdict(list)
    for file in files:
        app = app_of(file.module)
        if file.path.parent.name == app and file.path.name != "__init__.py":
            loose[app].append(file.path.stem)
    large = {f"over {LARGE_FILE}": sum(lines > LARGE_FILE for lines, _ in whole)}
    return {
        "functions": _spread([lines for lines, _ in functions], median=50, p75=75, p90=90),
        "longest functions": [f"{lines} {name}" for lines, name in functions[:-6:-1]],
        "files": _spread([lines for lines, _ in whole], median=50, p90=90) | large,
        "longest files": [f"{lines} {name}" for lines, name in whole[:-6:-1]],
        "loose modules": {"total": sum(map(len, loose.values()))}
        | {app: len(names) for app, names in loose.items()},
        "loose modules, each": [f"{app}: {' '.join(names)}" for app, names in loose.items()],
    }


def words(files: list[File], tests: list[File]) -> dict[str, Any]:
    """Return the number of comments and docstrings per code line, and the ratio of tests to source."""
    report: dict[str, Any] = {}
    for name in ("comment_lines", "docstring_lines"):
        count = sum(getattr(file, name) for file in files)
        share = round(100 * count / sum(file.code_lines for file in files), 2)
        report[name.replace("_", " ")] = {"number": count, "per 100 code lines": share}
    source, tested = (sum(file.filled_lines for file in some) for some in (files, tests))
    return report | {
        "tests to source, not blank": {
            "ratio": round(tested / source, 3),
            "tests": tested,
            "source": source,
        },
        "test functions": sum(f.name.startswith("test_") for file in tests for f in file.functions),
    }


def checks(files: list[File], tests: list[File], root: Path) -> dict[str, Any]:
    """Return the number of comments that silence mypy and ruff, and the contracts of import-linter."""
    tools = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    mypy = tools.get("mypy", {})
    disabling = [entry for entry in mypy.get("overrides", []) if "disable_error_code" in entry]
    report: dict[str, Any] = {}
    for name, some in (("source", files), ("tests", tests)):
        comments = [token.string for file in some for token in file.comments]
        noqa = [text.partition("# noqa")[2] for text in comments if "# noqa" in text]
        rules = Counter(rule for text in noqa for rule in re.findall(r"\b[A-Z]+\d+\b", text))
        report[f"type: ignore in {name}"] = sum("type: ignore" in text for text in comments)
        report[f"noqa in {name}"] = len(noqa)
        report[f"noqa in {name}, by rule"] = dict(rules.most_common())
    return report | {
        "mypy is strict": mypy.get("strict", False),
        "mypy overrides with disable_error_code": len(disabling),
        "mypy overrides with disable_error_code, each": [
            f"{' '.join(entry['disable_error_code'])}: {entry['module']}" for entry in disabling
        ],
        "contracts of import-linter": [
            f"{contract['type']}: {contract['name']}"
            for contract in tools.get("importlinter", {}).get("contracts", [])
        ],
    }


def repeats(root: Path) -> dict[str, Any]:
    """Return the counts of repeated lines from the command `duplicates`, which lists at most 200 pairs."""
    if not shutil.which("duplicates"):
        return {"not measured": "the command `duplicates` is not on PATH"}
    command = ["duplicates", "--most", "200", "--seconds", "120", "--repo", str(root)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    listed = ("rows listed", "rows outside tests and bench", "rows outside generated code too")
    kinds = ("exact", "shape", "boilerplate")
    counts = {name: {"total": 0} | dict.fromkeys(kinds, 0) for name in listed}
    for line in lines:
        if row := re.match(r"D\d+ (\S+):\S+ ~ (\S+):\S+( shape)?( boilerplate)?", line):
            sides = [Path(row[1]), Path(row[2])]
            outside = not any(side.parts[0] in NOT_SOURCE for side in sides)
            within = (True, outside, outside and all(map(is_written, sides)))
            for name in (name for name, counted in zip(listed, within, strict=True) if counted):
                counts[name]["total"] += 1
                counts[name][kinds[bool(row[3]) + bool(row[4])]] += 1
    notes = [line for line in lines[1:] if not re.match(r"D\d+ ", line)]
    return {"whole tree": lines[0]} | counts | {"notes": notes}


def measure(root: Path) -> dict[str, Any]:
    """Return all figures of a tree, by section."""
    packages = {path.parent.name for path in root.glob("*/__init__.py")} - NOT_SOURCE
    everything = [file for package in sorted(packages) for file in read(root, package)]
    files = [file for file in everything if is_written(file.path)]
    imports, tests = imports_of(everything), read(root, "tests")
    return {
        "upward imports": upward(files, imports),
        "import cycles": all_cycles(imports),
        "rooms": folder_sizes(files),
        "sizes in lines": sizes(files),
        "words and tests": words(files, tests),
        "checks": checks(files, tests, root),
        "repeated lines": repeats(root),
    }


def table(name: str, value: Any, indent: str = "") -> Iterator[str]:
    """Yield the rows of a table for people: one row per figure, with its details below."""
    label = f"{indent}{name}".ljust(50)
    if isinstance(value, list):
        yield f"{label}{'' if value else 'none'}"
        yield from (f"{indent}  {item}" for item in value)
    elif isinstance(value, dict) and any(isinstance(each, dict) for each in value.values()):
        yield label
        for key, each in value.items():
            yield from table(key, each, f"{indent}  ")
    elif isinstance(value, dict):
        yield label + (", ".join(f"{key} {each}" for key, each in value.items()) or "none")
    else:
        yield f"{label}{value}"


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.structure", description="Measure the structure of a source tree."
    )
    parser.add_argument(
        "tree",
        nargs="?",
        default=".",
        type=Path,
        metavar="TREE",
        help="folder of a checkout (default: the current folder)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    report = measure(args.tree.resolve())
    rows = (row.rstrip() for name, figures in report.items() for row in table(name, figures))
    print(json.dumps(report, indent=1) if args.json else "\n".join(rows))


def _ring(nodes: list[str]) -> str:
    return f"[{len(nodes)}] {' '.join(nodes)}"


def _spread(values: list[int], **percents: int) -> dict[str, int]:
    """Return percentiles of sorted values, without interpolation between values."""
    named = {name: values[ceil(p * len(values) / 100) - 1] for name, p in percents.items()}
    return {"number": len(values)} | named | {"max": values[-1]}


if __name__ == "__main__":
    main()
