"""Facts about the sandbox: version of Python, date, folder, disk, system. One command each, and no file is written."""

from collections.abc import Generator
from typing import Any

from billing.gateway.demo.order import Order, Task
from billing.gateway.demo.workbench import Bench, Result, Text
from billing.gateway.script import Step

_COMMANDS = {
    "python_version": "python3 --version",
    "date": "date",
    "folder": "pwd",
    "disk": "df -h .",
    "system": "uname -srm",
}
_WORDS = (
    "what|what's|whats|which|is|tell|show|print|check|current|currently|installed|available|version|"
    "versions?|now|today|today's|do you have|have|in|sandbox|here|there|how much|left|free|running|"
    "我们|什么|哪个|是|多少|当前|现在|今天|版本|查看|显示|告诉我?|安装|的|了|几|沙箱|还剩|剩余|可用"
)


def _do_fact(order: Order, bench: Bench) -> Generator[Step, Any, str]:
    command = _COMMANDS[order.task.key]
    result: Result = yield from bench.run(
        command, bench.say("I ask the sandbox.", "我问一下沙箱。"), order.task.title.english
    )
    if not result.is_success:
        return (
            bench.say(f"`{command}` failed:", f"`{command}` 失败了：") + f"\n\n{result.outline()}"
        )
    return bench.say(f"`{command}` says:", f"`{command}` 的输出：") + f"\n\n{result.outline()}"


def _make(key: str, english: str, chinese: str, *needs: str, words: str = "") -> Task:
    return Task(
        key=key,
        title=Text(english, chinese),
        needs=needs,
        words=f"{_WORDS}|{words}" if words else _WORDS,
        forbids="should|why|tomorrow|yesterday|was|next|last|how do|how can|怎么|为什么|应该",
        is_exact=True,
        carry_out=_do_fact,
    )


FACTS = (
    _make(
        "python_version",
        "the version of Python",
        "Python 版本",
        "python",
        "version|which python|what python|版本",
    ),
    _make(
        "date",
        "the date",
        "日期和时间",
        "date|time|what day|日期|时间|几点|几号|星期几",
        (
            "what|what's|show|tell|print|current|today|now|什么|几点|几号|几|现在|今天|当前|显示|告诉"
        ),
        words="date|time|day|and time|it|几点|几号|星期几|日期|时间|点|号",
    ),
    _make(
        "folder",
        "the working directory",
        "工作目录",
        (
            "pwd|(?:working|current) (?:directory|folder)|which (?:directory|folder)|where am i|where are "
            "we|当前目录|工作目录|哪个目录|当前路径|哪个文件夹"
        ),
        "pwd|what|what's|which|where|show|print|tell|什么|哪|查看|显示|是",
        words=("directory|folder|path|working|are|am|目录|文件夹|路径"),
    ),
    _make(
        "disk",
        "the disk space",
        "磁盘空间",
        ("disk(?: space| usage)?|free space|storage|磁盘|硬盘"),
        "space|usage|free|disk|how much|空间|多少|使用",
        words="space|usage|used|disk|使用情况|空间|使用|磁盘|硬盘|there",
    ),
    _make(
        "system",
        "the operating system",
        "操作系统",
        ("operating system|uname|which os|what os|linux|操作系统|系统版本|什么系统"),
        "what|which|show|tell|uname|什么|哪|查看|版本",
        words="operating system|os|linux|distribution|kernel|操作系统|系统",
    ),
)
