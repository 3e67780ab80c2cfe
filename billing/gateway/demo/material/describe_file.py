"""Print facts about a text file: size, lines, and its structure by its type."""

import ast
import json
import re
import sys

LIMIT = 2_000_000


def tell_signature(function):
    return f"{function.name}({', '.join(a.arg for a in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs])})"


def tell_doc(node):
    doc = ast.get_docstring(node)
    return f": {doc.splitlines()[0][:120]}" if doc else ""


def describe_python(text):
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        print(f"It is not valid Python: {error}")
        return
    if tell_doc(tree):
        print(f"It says of itself{tell_doc(tree)}")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append("." * node.level + (node.module or ""))
    print("Imports:", ", ".join(dict.fromkeys(imports)) or "none")
    for node in tree.body:
        if isinstance(node, functions):
            print(f"Function {tell_signature(node)}, line {node.lineno}{tell_doc(node)}")
        elif isinstance(node, ast.ClassDef):
            print(f"Class {node.name}, line {node.lineno}{tell_doc(node)}")
            for inner in node.body:
                if isinstance(inner, functions):
                    print(f"  Method {tell_signature(inner)}, line {inner.lineno}{tell_doc(inner)}")
    names = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    if names:
        print("Variables of the module:", ", ".join(dict.fromkeys(names)))
    plain = (*functions, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    others = [n for n in tree.body if not isinstance(n, plain) and not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    if others:
        print("Statements that run when the file is started or imported, at the lines:", ", ".join(str(n.lineno) for n in others[:20]))


def describe_json(text):
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        print(f"It is not valid JSON: {error}")
        return
    if isinstance(value, dict):
        print(f"A JSON object with {len(value)} keys:", ", ".join(list(map(str, value))[:20]))
    elif isinstance(value, list):
        print(f"A JSON list with {len(value)} entries")
    else:
        print(f"A single JSON value: {str(value)[:100]}")


def main(path):
    with open(path, "rb") as file:
        data = file.read(LIMIT + 1)
    if b"\0" in data[:8_000]:
        print(f"{path}: a binary file")
        return
    if len(data) > LIMIT:
        print(f"{path}: more than {LIMIT} bytes, too long to describe")
        return
    text = data.decode("utf-8-sig", "replace")
    lines = text.splitlines()
    filled = [line for line in lines if line.strip()]
    print(f"{path}: {len(data)} bytes, {len(lines)} lines ({len(lines) - len(filled)} of them empty), {len(text.split())} words")
    extension = path.lower().rpartition(".")[2]
    if extension in {"py", "pyw"}:
        describe_python(text)
    elif extension == "json":
        describe_json(text)
    elif extension in {"md", "markdown"}:
        for line in [line for line in lines if re.match(r"#{1,6} ", line)][:30]:
            print("Heading:", line)
    elif extension in {"html", "htm"}:
        title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
        print("Title:", title[1].strip() if title else "none")
        tags = re.findall(r"<([a-zA-Z][a-zA-Z0-9]*)", text)
        counts = sorted(set(tags), key=lambda tag: -tags.count(tag))[:12]
        print("Elements:", ", ".join(f"{tag} ({tags.count(tag)})" for tag in counts) or "none")
    if extension not in {"py", "pyw", "json"}:
        for line in filled[:5]:
            print("|", line[:120])
        if len(filled) > 5:
            print("| …")


if __name__ == "__main__":
    main(sys.argv[1])
