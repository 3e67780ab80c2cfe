"""Replies of the demo model in words: greetings, and answers to questions about itself.

The texts are Markdown. Links to pages of this server begin with ``site``, its public address.
"""

from collections.abc import Generator
from typing import Any

from billing.gateway.demo import wording
from billing.gateway.demo.offers import ABOUT, EXAMPLES, link_model, list_examples
from billing.gateway.demo.order import Order, Task
from billing.gateway.demo.workbench import Bench, Text
from billing.gateway.script import Step


def _no_steps(order: Order, bench: Bench) -> Generator[Step, Any, str]:
    """Yield nothing: the reply of a task in words is its text."""
    yield from ()
    return ""


def _read_topics() -> tuple[Task, ...]:
    """Return the topics of the list ``topics`` as tasks without tools."""
    tasks = []
    for block in wording.read_blocks("topics"):
        (key, unknown), *lines = block[0].strip("[]").split(), *block[1:]
        conditions: list[list[str]] = [[]]
        words: list[str] = []
        forbidden: list[str] = []
        for line in lines:
            kind, _, patterns = line.partition(" ")
            if kind == "and":
                conditions.append([])
            else:
                own = {"need": conditions[-1], "word": words, "not": forbidden}[kind]
                own += patterns.replace("{ask}", _ASK).split(" | ")
        tasks.append(
            Task(
                key=key,
                title=Text(key, key),
                needs=tuple("|".join(condition) for condition in conditions),
                words="|".join(words),
                forbids="|".join(forbidden),
                uses_tools=False,
                max_unknown=int(unknown),
                carry_out=_no_steps,
            )
        )
    return tuple(tasks)


_ASK = (
    "what | what's | is | are | how | do | does | can | i | you | tell | me | about | explain | mean |"
    " means | the | a | "
    "什么 | 是 | 怎么 | 如何 | 怎样 | 吗 | 的 | 解释 | 意思 | 介绍 | 说说 | 讲讲 | 为什么"
)
TALKS = _read_topics()
_ANSWERS = {
    "prime": Text(
        "A prime is a whole number greater than 1 that only 1 and itself divide: 2, 3, 5, 7, 11, …",
        "素数是大于 1、只能被 1 和自身整除的整数：2、3、5、7、11……",
    ),
    "fizzbuzz?": Text(
        (
            "FizzBuzz counts from 1 up. Multiples of 3 become “Fizz”, multiples of 5 “Buzz”, and "
            "multiples of both “FizzBuzz”."
        ),
        "FizzBuzz 从 1 开始数数：3 的倍数说“Fizz”，5 的倍数说“Buzz”，同时是两者的倍数说“FizzBuzz”。",
    ),
    "fibonacci?": Text(
        (
            "The Fibonacci sequence begins with 0 and 1, and each further number is the sum of the two "
            "before it: 0, 1, 1, 2, 3, 5, 8, …"
        ),
        "斐波那契数列以 0 和 1 开头，之后每个数都是前两个数的和：0、1、1、2、3、5、8……",
    ),
    "reverse": Text(
        (
            "In Python, a slice with the step -1 reverses a string:\n\n```python\ntext = "
            '"Hello"\nprint(text[::-1])  # olleH\n```'
        ),
        '在 Python 里，用步长为 -1 的切片反转字符串：\n\n```python\ntext = "Hello"\nprint(text[::-1])  # olleH\n```',
    ),
    "chat": Text(
        "I am only a small program, so I cannot hold a conversation. I can do small tasks for you.",
        "我只是一个小程序，不会聊天，但可以帮你做一些小任务。",
    ),
    "joke": Text("I know no jokes, only small tasks.", "我不会讲笑话，只会做一些小任务。"),
    "privacy": Text(
        (
            "The demo model is a part of this server: it computes its replies here, sends nothing to any other "
            "service and learns nothing from what you write. The server keeps the conversation and its files, as for "
            "every conversation. A real model that you connect receives your messages from this server."
        ),
        (
            "演示模型是这台服务器的一部分：回复在这里计算，不会把内容发给其他服务，也不会用你写的内容来训练。"
            "服务器会像对待每个对话一样保存这个对话和它的文件。如果你连接真正的模型，它会从这台服务器收到你的消息。"
        ),
    ),
    "cost": Text(
        (
            "The demo model costs nothing and needs no API key. A real model needs one, or a model server of your own, "
            "and its provider may charge for it."
        ),
        "演示模型不收费，也不需要 API 密钥。真正的模型需要密钥或你自己的模型服务器，其提供商可能收费。",
    ),
    "speak": Text(
        "I understand simple requests in English and in Chinese, and no other language.",
        "我能理解简单的中文和英文请求，不会其他语言。",
    ),
    "online": Text(
        "I do not use the internet. I am a part of this server and work only with the files of this conversation.",
        "我不使用互联网。我是这台服务器的一部分，只处理这个对话里的文件。",
    ),
    "useless": Text(
        "I am sorry. I know only a few small tasks; a real model can do more.",
        "抱歉，我只会几种小任务；真正的模型能做更多。",
    ),
    "thanks": Text("You are welcome. Here is more to try:", "不客气。还可以试试："),
    "bye": Text("Goodbye. The files stay in this conversation.", "再见。文件会留在这个对话里。"),
    "okay": Text("Tell me what to do next, for example:", "请告诉我接下来做什么，例如："),
    "hello": Text("Hello!", "你好！"),
    "help": Text("", ""),
    "who": Text("", ""),
}
SHORT = frozenset({"hello", "thanks", "bye", "okay", "chat"})
"""Topics whose words may occur in requests for tasks too, so that the tasks come first."""
_LONG = {"help", "hello", "who"}


def answer(order: Order, site: str, *, is_first: bool) -> str:
    """Return the reply in words to a request like "hello" or "what can you do?"."""
    key, is_chinese = order.task.key, order.reading.is_chinese

    def say(text: Text) -> str:
        return text.chinese if is_chinese else text.english

    parts = [say(_ANSWERS[key])] if key in _ANSWERS and say(_ANSWERS[key]) else []
    if is_first or key in {"help", "who", "connect"}:
        parts.insert(1 if key == "hello" else 0, say(ABOUT))
    if key == "connect":
        parts.append(
            say(
                Text(
                    (
                        f"Open [Settings → Model]({site}/settings/model) and enter the address and the key of a "
                        f"model server. New conversations then use it."
                    ),
                    (
                        f"打开 [Settings → Model]({site}/settings/model)，填写模型服务器的地址和密钥。"
                        f"之后的新对话就会使用它。"
                    ),
                )
            )
        )
    if key in _LONG or key in {"thanks", "okay", "chat", "joke", "useless", "speak"}:
        if key in _LONG:
            parts.append(say(Text("Try one of these:", "可以试试：")))
        parts.append(
            list_examples(site, is_chinese=is_chinese, count=len(EXAMPLES) if key in _LONG else 4)
        )
    if key in _LONG or key in {"cost", "useless"} or (is_first and key != "connect"):
        parts.append(say(link_model(site)))
    return "\n\n".join(parts)
