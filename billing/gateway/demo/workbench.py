"""The tools of the agent, as a task of the demo model uses them: each step yields a call and gets its result."""

import re
import shlex
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from billing.gateway.script import Json, Step

MATERIAL = Path(__file__).parent / "material"
MAX_SHOWN = 1_500
"""The maximum number of characters of output in a report."""
MAX_LINES = 40
# Lines that the terminal tool adds to the output of a command.
_METADATA = re.compile(
    r"\[(?:Current working directory|Python interpreter|Command finished with exit code|The command)\b.*"
)
_EXIT_CODE = re.compile(r"^\[Command finished with exit code (-?\d+)\]", re.MULTILINE)
_CWD = re.compile(r"^\[Current working directory: (.+)\]$", re.MULTILINE)


class Text(NamedTuple):
    """A sentence in both languages."""

    english: str
    chinese: str


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a tool call, as the engine sends it back to the model."""

    raw: str

    @property
    def output(self) -> str:
        """The output of a command, without the lines that the terminal adds."""
        lines = self.raw.splitlines()
        return "\n".join(line for line in lines if not _METADATA.fullmatch(line)).strip("\n")

    @property
    def exit_code(self) -> int | None:
        codes = _EXIT_CODE.findall(self.raw)
        return int(codes[-1]) if codes else None

    @property
    def is_success(self) -> bool:
        return self.exit_code == 0

    @property
    def cwd(self) -> str | None:
        found = _CWD.findall(self.raw)
        return str(found[-1]) if found else None

    def outline(self) -> str:
        """Return the output for a report: at most ``MAX_SHOWN`` characters, in a block of code."""
        output = self.output
        lines = output.splitlines()
        if len(output) > MAX_SHOWN or len(lines) > MAX_LINES:
            output = "\n".join(lines[:MAX_LINES])[:MAX_SHOWN] + "\n…"
        longest = max((len(run) for run in re.findall(r"`{3,}", output)), default=2)
        fence = "`" * (longest + 1)
        return f"{fence}\n{output}\n{fence}"


Steps = Generator[Step, Result, Result]


class Stopped(Exception):
    """A task cannot go on; the text says why."""


@dataclass(slots=True)
class Bench:
    """The state that the steps of a turn share: tools, language, working directory and plan."""

    tools: dict[str, Json]
    is_chinese: bool = False
    opening: str = ""
    """A text before that of the first step, or an empty text."""
    cwd: str = "."
    names: set[str] = field(default_factory=set)
    """The names of files in the working directory, in lower case, after ``look``."""
    titles: list[str] = field(default_factory=list)
    has_folder: bool = False
    """Whether the folder that was looked at exists."""

    def say(self, english: str, chinese: str) -> str:
        """Return the sentence in the language of the request."""
        return chinese if self.is_chinese else english

    def call(self, text: str, summary: str, tool: str, **arguments: object) -> Steps:
        """Call a tool and return its result."""
        opening, self.opening = self.opening, ""
        result = yield Step(
            text=f"{opening}{text}", calls=[(tool, dict(arguments))], summary=summary
        )
        return result

    def plan(self, *titles: str) -> Generator[Step, Result, None]:
        """Show the plan, if the agent has a tool for it."""
        self.titles = list(titles)
        if "task_tracker" in self.tools:
            text = self.say("This is my plan.", "这是我的计划。")
            yield from self.call(
                text, "Make a plan", "task_tracker", command="plan", task_list=self._list(0)
            )

    def close_plan(self, done: int | None = None) -> Generator[Step, Result, None]:
        """Mark the steps of the plan as done: all, or the first ``done``."""
        if "task_tracker" in self.tools and self.titles:
            count = len(self.titles) if done is None else done
            text = self.say("I update the plan.", "我更新计划。")
            yield from self.call(
                text, "Update the plan", "task_tracker", command="plan", task_list=self._list(count)
            )

    def _list(self, done: int) -> list[Json]:
        statuses = ["done" if position < done else "todo" for position in range(len(self.titles))]
        if not done:
            statuses[0] = "in_progress"
        return [
            {"title": title, "notes": "", "status": status}
            for title, status in zip(self.titles, statuses, strict=True)
        ]

    def run(self, command: str, text: str, summary: str) -> Steps:
        """Run a command in the terminal."""
        result = yield from self.call(text, summary, "terminal", command=command)
        if result.exit_code is None:
            raise Stopped(
                self.say(
                    f"The terminal did not report the end of `{_first_line(command)}`, so I stop here.",
                    f"终端没有报告 `{_first_line(command)}` 已经结束，所以我停在这里。",
                )
            )
        return result

    def look(self, folder: str = "") -> Steps:
        """List the working directory, or a folder in it, and remember where it is and which names are taken."""
        text = self.say("First I look at the working directory.", "我先看看工作目录。")
        command = "pwd -P && ls -A1 | cat"
        if folder:
            quoted = shlex.quote(folder)
            command += f"; if [ -d {quoted} ]; then (cd -P {quoted} && echo // && pwd -P && ls -A1 | cat); fi"
        result = yield from self.run(command, text, "Look around")
        own, _, inner = result.output.partition("\n//\n")
        lines = own.splitlines()
        if not result.is_success or not lines or not lines[0].startswith("/"):
            raise Stopped(self.say("I cannot read the working directory.", "我读不了工作目录。"))
        self.cwd = lines[0]
        names = lines[1:]
        self.has_folder = bool(inner)
        if inner:
            where, *names = inner.splitlines()
            if where != self.cwd and not where.startswith(f"{self.cwd.rstrip('/')}/"):
                raise Stopped(
                    self.say(
                        f"`{folder}` leads out of the working directory, so I write nothing there.",
                        f"`{folder}` 指向工作目录之外，所以我不在那里写文件。",
                    )
                )
        elif folder:
            names = []
        self.names = {name.casefold() for name in names}
        return result

    def create(self, name: str, content: str, text: str = "") -> Generator[Step, Result, str]:
        """Write a new file, and return its name. If the name is taken, choose a free one: no file is overwritten."""
        folder = name.rpartition("/")[0]
        if folder and not self.has_folder:
            parts = folder.split("/")
            # A folder that is a link may lead out of the working directory.
            links = "".join(
                f"test ! -L {shlex.quote('/'.join(parts[: n + 1]))} && " for n in range(len(parts))
            )
            made = yield from self.run(
                f"{links}mkdir -p {shlex.quote(folder)}",
                self.say(f"I make the folder `{folder}`.", f"我创建文件夹 `{folder}`。"),
                f"Make {folder}",
            )
            if not made.is_success:
                raise Stopped(
                    self.say(
                        f"The folder `{folder}` could not be made:\n\n{made.outline()}",
                        (f"无法创建文件夹 `{folder}`：\n\n{made.outline()}"),
                    )
                )
            self.has_folder = True
        for number in range(1, 8):
            candidate = name if number == 1 else number_name(name, number)
            if candidate.rpartition("/")[2].casefold() in self.names:
                continue
            words = text or self.say(f"I write `{candidate}`.", f"我写 `{candidate}`。")
            result = yield from self.call(
                words,
                f"Write {candidate}",
                "file_editor",
                command="create",
                path=f"{self.cwd}/{candidate}",
                file_text=content,
            )
            if result.raw.lstrip().startswith("File created successfully"):
                self.names.add(candidate.rpartition("/")[2].casefold())
                return candidate
            if "already exists" not in result.raw:
                where = folder or self.say("the working directory", "工作目录")
                raise Stopped(
                    self.say(
                        f"`{candidate}` could not be written in {where}:\n\n{result.outline()}",
                        f"无法在 {where} 写 `{candidate}`：\n\n{result.outline()}",
                    )
                )
        raise Stopped(
            self.say(
                f"`{name}` and the next names like it are taken, and I overwrite no file.",
                f"`{name}` 和类似的名字都已被占用，而我不覆盖任何文件。",
            )
        )

    def run_python(self, arguments: str, text: str, summary: str) -> Steps:
        """Run Python in the terminal; where ``python3`` is missing, try ``python``."""
        for program in ("python3", "python"):
            command = f"{program} {arguments}"
            result = yield from self.run(command, text, summary)
            # 127: the shell did not find the command.
            if result.exit_code != 127:
                return result
            text = self.say(
                "python3 is not installed, so I try python.",
                "没有安装 python3，所以我试试 python。",
            )
        raise Stopped(
            self.say(
                "Python is not installed in this sandbox, so I cannot run programs here.",
                "这个沙箱里没有安装 Python，所以我无法运行程序。",
            )
        )

    def measure(self, script: str, arguments: str, text: str, summary: str) -> Steps:
        """Run a helper script from a temporary folder, so that the working directory stays as it is."""
        made = yield from self.run(
            "mktemp -d",
            self.say(
                ("I need a place for a small helper program, outside of your files."),
                "我需要一个放小工具的地方，不在你的文件里。",
            ),
            "Make a temporary folder",
        )
        lines = made.output.split()
        if not made.is_success or len(lines) != 1 or not lines[0].startswith("/"):
            raise Stopped(self.say("I cannot make a temporary folder.", "我无法创建临时文件夹。"))
        path = f"{lines[0]}/{script}"
        result = yield from self.call(
            self.say("This program reads the file.", "这个程序读取文件。"),
            f"Write the helper {script}",
            "file_editor",
            command="create",
            path=path,
            file_text=(MATERIAL / script).read_text(encoding="utf-8"),
        )
        if not result.raw.lstrip().startswith("File created successfully"):
            raise Stopped(self.say("I cannot write the helper program.", "我写不了这个小工具。"))
        result = yield from self.run_python(
            f"-I {path} {arguments} && rm -r {lines[0]}", text, summary
        )
        return result

    def tell_name(self, name_asked: str, written: str) -> str:
        """Return a sentence about a file that got another name than the request gave it, or an empty text."""
        if name_asked == written:
            return ""
        return self.say(
            f" `{name_asked}` exists already and I do not overwrite files, so the new file is called `{written}`.",
            f" `{name_asked}` 已经存在，我不覆盖文件，所以新文件叫 `{written}`。",
        )


def number_name(name: str, number: int) -> str:
    """Return a file name with a number: ``a_2.py`` for ``a.py``."""
    folder, slash, bare = name.rpartition("/")
    stem, dot, extension = bare.rpartition(".")
    return (
        f"{folder}{slash}{stem}_{number}.{extension}"
        if dot and stem
        else f"{folder}{slash}{bare}_{number}"
    )


def _first_line(command: str) -> str:
    return command.splitlines()[0][:80]
