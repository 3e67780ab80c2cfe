"""Print test cases for the functions of a Python file, one JSON object a line.

The file is read, not imported. A function is called only if it cannot reach files, the network or other programs:
its code is checked against lists of harmless names first, and it runs by itself. The kinds of cases are "doctest"
(an example of the function's own documentation), "known" (a function whose name says what it must return) and
"today" (what the function returns now).
"""

import ast
import doctest
import json
import signal
import sys

BUILTINS = {
    name: vars(__builtins__)[name]
    for name in (
        "abs all any bool chr dict divmod enumerate filter float frozenset int isinstance len list map max min ord pow range "
        "repr reversed round set sorted str sum tuple zip True False None ValueError TypeError KeyError IndexError "
        "ZeroDivisionError ArithmeticError Exception"
    ).split()
}
METHODS = set(
    "append add capitalize casefold count copy difference endswith extend find get index insert intersection isalnum isalpha "
    "isdigit islower isspace isupper items join keys lower lstrip pop replace rstrip setdefault sort split splitlines "
    "startswith strip title union update upper values reverse".split()
)
MODULES = {"math": {"sqrt", "floor", "ceil", "gcd", "pi", "isqrt", "log", "log2", "log10", "sin", "cos", "hypot", "prod"}}
NODES = (
    ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If,
    ast.Raise, ast.Pass, ast.Break, ast.Continue, ast.Expr, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Dict, ast.Set,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Compare, ast.Call, ast.Constant, ast.Attribute,
    ast.Subscript, ast.Name, ast.List, ast.Tuple, ast.Slice, ast.comprehension, ast.expr_context, ast.boolop, ast.operator,
    ast.unaryop, ast.cmpop, ast.keyword, ast.JoinedStr, ast.FormattedValue, ast.Starred, ast.Lambda,
)
KNOWN = {
    ("add", "addition", "sum_two", "plus", "add_numbers"): [((2, 3), 5), ((-1, 1), 0), ((0, 0), 0)],
    ("sub", "subtract", "minus", "difference"): [((5, 3), 2), ((0, 4), -4)],
    ("mul", "multiply", "times", "product"): [((4, 3), 12), ((-2, 5), -10), ((7, 0), 0)],
    ("div", "divide"): [((6, 3), 2), ((7, 2), 3.5)],
    ("square",): [((3,), 9), ((-4,), 16), ((0,), 0)],
    ("cube",): [((3,), 27), ((-2,), -8)],
    ("double",): [((3,), 6), ((0,), 0)],
    ("is_even", "even"): [((2,), True), ((7,), False), ((0,), True)],
    ("is_odd", "odd"): [((3,), True), ((8,), False)],
    ("is_prime", "isprime"): [((2,), True), ((9,), False), ((1,), False), ((97,), True)],
    ("factorial",): [((0,), 1), ((1,), 1), ((5,), 120)],
    ("reverse", "reverse_string", "reverse_text"): [(("abc",), "cba"), (("",), "")],
    ("is_palindrome", "palindrome"): [(("level",), True), (("hello",), False)],
    ("average", "mean"): [(([2, 4, 6],), 4), (([5],), 5)],
    ("maximum", "find_max", "largest", "get_max"): [(([3, 9, 2],), 9), (([-5, -2],), -2)],
    ("minimum", "find_min", "smallest", "get_min"): [(([3, 9, 2],), 2), (([-5, -2],), -5)],
    ("gcd", "greatest_common_divisor"): [((12, 18), 6), ((17, 5), 1)],
    ("count_vowels",): [(("hello",), 2), (("xyz",), 0)],
    ("celsius_to_fahrenheit", "c_to_f"): [((0,), 32), ((100,), 212)],
    ("fahrenheit_to_celsius", "f_to_c"): [((32,), 0), ((212,), 100)],
    ("is_leap_year", "leap_year"): [((2000,), True), ((1900,), False), ((2024,), True)],
    ("fizzbuzz", "fizz_buzz"): [],
}
SAMPLES = [0, 1, 7, -3, "abc", "", "Hello world", [3, 1, 2], [], True]
ANNOTATED = {"int": [0, 7, -3], "float": [0.5, 2.0], "str": ["abc", "", "Hello world"], "list": [[3, 1, 2], []], "bool": [True, False]}


def is_harmless(function, functions):
    """Return whether a function only computes: no imports, no files, no attributes except harmless methods."""
    if function.decorator_list:
        return False
    bound = {a.arg for a in ast.walk(function) if isinstance(a, ast.arg)}
    bound |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in ast.walk(function):
        if not isinstance(node, NODES) or (isinstance(node, ast.FunctionDef) and node is not function):
            return False
        if isinstance(node, ast.Name) and node.id not in bound and node.id not in BUILTINS and node.id not in functions:
            return False
        if isinstance(node, ast.Attribute):
            if node.attr.startswith("_") or node.attr not in METHODS:
                return False
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) > 10**6:
            return False
        if isinstance(node, ast.LShift):
            return False
    return True


def find_harmless(tree):
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    while True:
        good = {name: node for name, node in functions.items() if is_harmless(node, functions)}
        if len(good) == len(functions):
            return good
        functions = good


def call(function, arguments):
    """Return ("value", result), ("error", name of the exception), or None if the call takes over a second."""

    def stop(number, frame):
        raise TimeoutError

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        return "value", function(*arguments)
    except (TimeoutError, MemoryError, RecursionError):
        return None
    except Exception as error:
        return "error", type(error).__name__
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def is_plain(value):
    try:
        return ast.literal_eval(repr(value)) == value and len(repr(value)) < 200
    except (ValueError, SyntaxError):
        return False


def emit(kind, function, expression, result):
    print(json.dumps({"kind": kind, "function": function, "call": expression, "result": result}))


def choose_arguments(node):
    """Yield lists of arguments that fit the annotations, or else plain samples."""
    count = len(node.args.posonlyargs) + len(node.args.args)
    required = count - len(node.args.defaults)
    options = []
    for argument in [*node.args.posonlyargs, *node.args.args][: max(required, 1) if count else 0]:
        name = ast.unparse(argument.annotation) if argument.annotation else ""
        options.append(ANNOTATED.get(name.partition("[")[0].lower(), SAMPLES))
    if not options:
        yield ()
        return
    length = max(map(len, options))
    for index in range(length):
        yield tuple(option[(index + place) % len(option)] if option is not SAMPLES else option[index] for place, option in enumerate(options))


def main(path):
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    except (ImportError, ValueError, OSError):
        pass
    with open(path, encoding="utf-8-sig") as file:
        text = file.read()
    tree = ast.parse(text)
    guarded = [n for n in tree.body if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom))]
    plain = []
    for node in guarded:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and (node.value is None or not any(isinstance(n, ast.Call) for n in ast.walk(node.value))):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        plain.append(node)
    if plain:
        print(json.dumps({"kind": "runs", "line": plain[0].lineno}))
        return
    outside = sorted({alias.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
                     | {(n.module or ".").partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)})
    missing = [name for name in outside if name not in sys.stdlib_module_names]
    if missing:
        print(json.dumps({"kind": "needs", "modules": missing}))
        return
    harmless = find_harmless(tree)
    module = ast.Module(body=list(harmless.values()), type_ignores=[])
    space = {"__builtins__": BUILTINS}
    exec(compile(module, path, "exec"), space)
    for node in [n for n in tree.body if isinstance(n, ast.FunctionDef)]:
        name = node.name
        if name.startswith("_") or name not in harmless:
            print(json.dumps({"kind": "skipped", "function": name}))
            continue
        found = False
        for example in doctest.DocTestParser().get_examples(ast.get_docstring(node) or ""):
            source = example.source.strip()
            try:
                expected = ast.literal_eval(example.want.strip())
                expression = ast.parse(source, mode="eval").body
                arguments = [ast.literal_eval(a) for a in expression.args]
            except (ValueError, SyntaxError, AttributeError):
                continue
            if getattr(expression.func, "id", "") == name and not expression.keywords:
                emit("doctest", name, f"{name}({', '.join(map(repr, arguments))})", repr(expected))
                found = True
        count = len(node.args.posonlyargs) + len(node.args.args)
        for names, cases in KNOWN.items():
            if not found and name.lower() in names:
                for arguments, expected in cases:
                    outcome = call(space[name], arguments) if len(arguments) == count else None
                    if outcome and outcome not in (("error", "TypeError"), ("error", "AttributeError")):
                        emit("known", name, f"{name}({', '.join(map(repr, arguments))})", repr(expected))
                        found = True
        if found or node.args.kwonlyargs or node.args.vararg:
            continue
        seen = []
        for arguments in choose_arguments(node):
            text_of = f"{name}({', '.join(map(repr, arguments))})"
            outcome = call(space[name], [list(a) if isinstance(a, list) else a for a in arguments])
            if outcome and outcome[0] == "value" and outcome[1] is not None and is_plain(outcome[1]) and len(seen) < 3:
                again = call(space[name], [list(a) if isinstance(a, list) else a for a in arguments])
                if again == outcome:
                    seen.append(text_of)
                    emit("today", name, text_of, repr(outcome[1]))
        if not seen:
            print(json.dumps({"kind": "skipped", "function": name}))


if __name__ == "__main__":
    main(sys.argv[1])
