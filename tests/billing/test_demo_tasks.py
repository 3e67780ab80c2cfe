"""Every task of the demo model's catalogue, carried out by the engine's real tools beside files of somebody else."""

from pathlib import Path
from typing import Any

import pytest

from billing.gateway.demo.offers import EXAMPLES
from tests.demo_prompts import FOREIGN, Sandbox, Tools
from tests.prepare import engine_dir

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(240)]

REQUESTS: list[tuple[str, list[str], list[str]]] = [
    # The request, the files that it makes, and parts of the report.
    (EXAMPLES[0].request.english, ["primes_2.py"], ["primes.py` exists already", "61 67 71"]),
    ("再来一次，改成 5 个，保存为 素数.py", ["素数.py"], ["2 3 5 7 11", "我是内置的演示模型"]),
    ("print the first 10000 primes one per line as big.py", ["big.py"], ["This is the right end", "104729"]),
    ("primes between 10 and 30 to primes.txt", ["primes.txt"], ["11\n13\n17\n19\n23\n29"]),
    ("做一个待办事项网页", ["todo_2.html"], ["todo.html` 已经存在"]),
    ("Fix the bug in the sample project", ["shop_2/README.md", "shop_2/basket.py", "shop_2/test_basket.py"], ["all tests pass", "Ran 4 tests"]),
    ("Write FizzBuzz from 1 to 15 to games/fb.py", ["games/fb.py"], ["14\nFizzBuzz"]),
    ("print the first 5 fibonacci numbers, comma separated", ["fibonacci.py"], ["0, 1, 1, 2, 3"]),
    ("Summarize the CSV file", [], ["3 rows, 3 columns", "mean 38", "1 empty"]),
    ("write a python script that summarizes data.csv", ["csv_summary.py"], ["3 rows, 3 columns"]),
    ("summarize data.csv and save it as summary.txt", ["summary.txt"], ["3 rows, 3 columns"]),
    ("summarize missing.csv", [], ["no file `missing.csv`"]),
    ("Write tests for a.py", ["test_a.py"], ["6 checks of `add`, `greet`", "all pass"]),
    ("Write tests for app.py", ["test_app_2.py"], ["some fail", "AssertionError: 6.0 != 4"]),
    ("write tests for nothing.py", [], ["no file `nothing.py`"]),
    ("write tests for setup.py", [], ["I wrote nothing"]),
    ("List the files in this directory", [], ["data.csv", ".env"]),
    ("how many csv files are there?", [], ["There are 1 `.csv` files"]),
    ("list the files in the shop folder", [], ["basket.py"]),
    ("Explain a.py", [], ["Function add(a, b), line 1: Add two numbers.", "Imports: none"]),
    ("show notes.txt", [], ["Buy milk."]),
    ("how many words are in notes.txt", [], ["2 lines, 5 words and 25 bytes"]),
    ("find all TODO comments", [], ["notes.txt:2", "app.py:2"]),
    ("git status", [], ["not a Git repository"]),
    ("写一个反转字符串的函数", ["reverse_string.py"], ["检查全部通过"]),
    ('Write hello.py that prints "it\'s $HOME `x` 你好"', ["hello_2.py"], ["it's $HOME `x` 你好\n```"]),
    ('write a shell script hi.sh that prints "a \\ b"', ["hi.sh"], ["a \\ b\n```"]),
    ("Save this as x.py and run it:\n```python\nprint(6 * 7)\n```", ["x.py"], ["42"]),
    ("Save this as y.py and run it:\n```python\nraise SystemExit(3)\n```", ["y.py"], ["failed (exit code 3)"]),
    ("which python version is installed?", [], ["Python 3"]),
    ("write primes to linked/p.py", [], ["leads out of the working directory"]),
    ("explain secret.py", [], ["it is a link"]),
    ("write hello world to locked/hello.py", [], ["could not be made", "File exists"]),
    ("factorial function in python, test with 5 and 7", ["factorial.py"], ["factorial(7) = 5040"]),
    ("show me the readme", [], ["# Mine", "README.md"]),
    ("which files mention Bob", [], ["data.csv:3", "notes.txt:2"]),
    ("fix the bug in app.py", [], ["I cannot do this"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def tools() -> Any:
    if not engine_dir().exists():
        pytest.skip("the agent engine is not installed")
    with Tools() as tools:
        yield tools


def test_every_task_is_done_and_no_foreign_file_changes(tools, tmp_path: Path):
    folder, outside = tmp_path / "work space" / "it's", tmp_path / "outside"
    folder.mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.py").write_text("SECRET = 1\n")
    sandbox = Sandbox(
        tools,
        folder,
        foreign=FOREIGN | {"setup.py": "import shutil\nshutil.rmtree('x')\n", "locked": "a file\n"},
    )
    (folder / "linked").symlink_to(outside)
    (folder / "secret.py").symlink_to(outside / "secret.py")
    sandbox.begin()
    wrong = []
    for request, made, parts in REQUESTS:
        if not request.startswith("再来"):
            sandbox.begin()
        outcome = sandbox.ask(request)
        said = outcome.message + "".join(
            m.get("content") or "" for m in sandbox.messages if m["role"] == "assistant"
        )
        missing = [part for part in parts if part not in said and part != "我是内置的演示模型"]
        if made != outcome.made or outcome.harmed or missing:
            wrong.append((request, outcome.made, outcome.harmed, missing, outcome.message))
    assert not wrong
    assert [path.name for path in outside.iterdir()] == ["secret.py"]


def test_git_summary_in_a_clone(tools, tmp_path: Path):
    sandbox = Sandbox(tools, tmp_path, repository=True)
    (tmp_path / "a.py").write_text("# changed\n")
    outcome = sandbox.ask("显示 Git 状态和最近 5 次提交")
    assert "有 1 个文件" in outcome.message
    assert "Start" in outcome.message
    assert (tmp_path / "a.py").read_text() == "# changed\n"


def test_csv_sample_is_made_only_without_a_csv_file(tools, tmp_path: Path):
    sandbox = Sandbox(tools, tmp_path, foreign={})
    outcome = sandbox.ask("Summarize the CSV file")
    assert outcome.made == ["sample.csv"]
    assert "There was no CSV file here" in outcome.message
    assert "8 rows, 4 columns" in outcome.message
