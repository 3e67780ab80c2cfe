"""Replies of the demo model in words: greetings, examples to try, answers to a few questions, and the refusal.

The texts are Markdown. Links to pages of this server begin with ``site``, its public address.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from billing.gateway.demo.order import Order, Task
from billing.gateway.demo.workbench import Bench, Text
from billing.gateway.script import Step


@dataclass(frozen=True, slots=True)
class Example:
    """A request to try: a name, a description and the request, in English and in Chinese."""

    name: str
    about: str
    request: Text


EXAMPLES = (
    Example(
        "Find primes",
        "Write a program, run it and check the output.",
        Text(
            "Write a program that prints the first 20 primes, save it as primes.py and run it",
            "写一个程序打印前 20 个素数，保存为 primes.py 并运行",
        ),
    ),
    Example(
        "To-do page",
        "One HTML file that works in a browser.",
        Text("Make a to-do page as one HTML file", "做一个待办事项网页，只用一个 HTML 文件"),
    ),
    Example(
        "Fix a bug",
        "A small sample project with a failing test.",
        Text("Fix the bug in the sample project", "修复示例项目里的错误"),
    ),
    Example(
        "FizzBuzz",
        "The classic exercise, from 1 to 30.",
        Text(("Write FizzBuzz from 1 to 30 and run it"), "写一个 1 到 30 的 FizzBuzz 并运行"),
    ),
    Example(
        "Fibonacci",
        "The first numbers of the sequence.",
        Text("Print the first 15 Fibonacci numbers", "打印前 15 个斐波那契数"),
    ),
    Example(
        "CSV summary",
        "Rows, columns and ranges.",
        Text("Summarize the CSV file", "给 CSV 文件做一个摘要"),
    ),
    Example(
        "Tests for a file",
        ("Tests for a Python file that is there."),
        Text("Write tests for primes.py", "为 primes.py 写测试"),
    ),
    Example(
        "List files",
        "What is in the working directory.",
        Text("List the files in this directory", "列出当前目录的文件"),
    ),
    Example(
        "Explain a file",
        "Size, functions, imports.",
        Text("Explain primes.py", "介绍一下 primes.py"),
    ),
    Example(
        "Count lines",
        "Lines of code.",
        Text("Count the lines of Python code", "统计 Python 代码行数"),
    ),
    Example("Search", "A text in all files.", Text("Find all TODO comments", "找出所有 TODO 注释")),
    Example(
        "Git",
        "State and newest commits.",
        Text(("Show the Git status and the last 5 commits"), "显示 Git 状态和最近 5 次提交"),
    ),
    Example(
        "A function",
        "With checks.",
        Text("Write a function that reverses a string", "写一个反转字符串的函数"),
    ),
    Example(
        "Hello",
        "A one-line program.",
        Text('Write hello.py that prints "Hello" and run it', "写 hello.py，打印“你好”并运行"),
    ),
)
"""Requests to try. Those about ``primes.py`` follow the first one in the same conversation."""

ABOUT = Text(
    "I am the built-in demo model. I know a few small tasks and nothing else.",
    "我是内置的演示模型，只会几种固定的小任务。",
)


def link_model(site: str) -> Text:
    """Return the sentence that says how to connect a model."""
    return Text(
        f"For anything else, connect a real model: [Settings → Model]({site}/settings/model).",
        f"其他任务请连接真正的模型：[Settings → Model]({site}/settings/model)。",
    )


def list_examples(site: str, *, is_chinese: bool, count: int = len(EXAMPLES)) -> str:
    """Return a list of requests to try. Each links to the home page with the request filled in."""
    lines = []
    for index, example in enumerate(EXAMPLES[:count]):
        request = example.request.chinese if is_chinese else example.request.english
        lines.append(f"- [{request}]({site}/?example={index}{'&lang=zh' if is_chinese else ''})")
    return "\n".join(lines)


def decline(site: str, reason: Text | None, *, is_chinese: bool, is_first: bool) -> str:
    """Return the one message that declines a request."""
    if is_chinese:
        about = "我是内置的演示模型，" if is_first else ""
        start = f"{about}这个请求我做不了。"
        why = reason.chinese if reason else "我只会几种固定的小任务，这个不在其中。"
        rest = (
            f"我没有改动任何文件。\n\n要完成它，请连接真正的模型：[Settings → "
            f"Model]({site}/settings/model)。\n\n我会做的，例如："
        )
    else:
        about = "I am the built-in demo model, and " if is_first else ""
        start = f"{about}I cannot do this. " if is_first else "I cannot do this. "
        why = reason.english if reason else "I know a few small tasks, and this is none of them."
        rest = (
            f" I changed no file.\n\nTo get it done, connect a real model: [Settings → "
            f"Model]({site}/settings/model).\n\nWhat I can do, for example:"
        )
    return f"{start}{why}{rest}\n\n{list_examples(site, is_chinese=is_chinese, count=4)}"


# --- Requests that are answered in words ---------------------------------------------


def _no_steps(order: Order, bench: Bench) -> Generator[Step, Any, str]:
    """Yield nothing: the reply of a task in words is its text."""
    yield from ()
    return ""


def _talk(key: str, needs: str, words: str = "") -> Task:
    return Task(
        key=key,
        title=Text(key, key),
        needs=tuple(needs.split(" && ")),
        words=words,
        uses_tools=False,
        carry_out=_no_steps,
    )


_ASK = (
    "what|what's|whats|is|are|how|do|does|can|i|you|tell|me|about|explain|mean|means|the|a|什么|是|怎么|如何|"
    "怎样|吗|的|解释|意思|介绍|说说|讲讲|为什么"
)
TALKS = (
    _talk(
        "help",
        "what (?:else )?(?:can|could|do|are) (?:you|u|i|we)(?: able to| capable of)?(?: do| ask| try| "
        "help)?(?: here)?|what you can do|your (?:abilities|capabilities|features|skills|commands|"
        "tasks)|help|"
        "what (?:should|can) i (?:try|ask|do)|(?:give|show|tell) me (?:some )?(?:examples|ideas|"
        "suggestions)|examples|how (?:do|can) i (?:use|start|begin)(?: you| this| it)?|how does this "
        "work|how do you work|get started|getting started|menu|commands|capabilities|what do you know|"
        "what is possible|(?:anything|something) you can do|/help|"
        "(?:你|您)?(?:都|还)?(?:能|会|可以)(?:帮我)?(?:做|干)(?:些|点)?(?:什么|啥)|有(?:什么|哪些)功能|"
        "帮帮我|救命|帮助|怎么用|如何使用|使用说明|能做什么|"
        "会什么|会做什么|可以做什么|你有什么用|有什么可以做|举(?:个|些)例子|有哪些功能|示例",
        (
            f"{_ASK}|with|need|some|try|else|things?|kinds? of|sort of|tasks?|for|here|now|abilities|"
            f"list|able|there|capable|of|any|assist|new|should|start|使用|功能|都|还|给我|例子|可以|能|做|有|哪些|些|"
            f"任务|你|会|帮我|请问|事情|事"
        ),
    ),
    _talk(
        "who",
        "who are you|what are you|who is this|who am i talking to|are you (?:an? )?(?:ai|bot|robot|"
        "human|real|gpt|chatgpt|claude|llm|model|language model|person|demo)(?: model)?|your name|what "
        "model|which model|which llm|which ai|introduce yourself|tell me about yourself|what is this|"
        "你是谁|您是谁|你是什么|你叫什么|介绍(?:一下)?(?:你)?自己|自我介绍|什么模型|哪个模型|你是(?:人|"
        "机器人|ai|chatgpt|gpt|真人)|这是什么",
        (
            f"{_ASK}|model|llm|ai|name|real|using|powered by|behind|kind of|exactly|chatgpt|gpt|this|or|"
            f"bot|你|模型|名字|谁|您|叫|哪个|人|机器人|还是|用的|在"
        ),
    ),
    _talk(
        "thanks",
        (
            "thanks?(?: you)?|thank you|thx|ty|cheers|great|awesome|perfect|good job|well done|nice|"
            "cool|amazing|excellent|谢谢|多谢|感谢|太好了|很好|不错|真棒|厉害|好棒|辛苦了|牛"
        ),
        (
            "that's|that is|thanks?|you|so|very|much|a lot|lots|great|work|job|well|done|that|was|is|it|works|really|"
            "good|say|love|awesome|perfect|your|for|help|all|everything|你|您|的|帮助|非常|十分|了|很|太|真|好"
        ),
    ),
    _talk(
        "bye",
        "bye(?:-bye)?|goodbye|good bye|see you|see ya|good night|exit|quit|再见|拜拜|回头见|晚安",
        "bye|see|you|later|soon|night|good|for now|下次|见",
    ),
    _talk(
        "connect",
        (
            "(?:connect|set up|setup|configure|add|use|change|switch|choose|select|enter|get|plug "
            "in)(?: to| in)? (?:a |an |the |my |another |real |own |different |better |api )*(?:model|"
            "llm|api key|key|ollama|openai|anthropic|claude|gpt|provider)|(?:model|llm|api) settings|"
            "api key|real model|连接(?:真正的?|其他|一个)?模型|配置模型|设置模型|换(?:个|一个)?模型|"
            "切换模型|api密钥|api key|接入模型|"
            "添加模型|使用真正的模型"
        ),
        (
            f"{_ASK}|where|real|model|models|key|api|own|my|settings?|server|with|another|how to|to|"
            f"here|in|哪里|在哪|设置|配置|真正|我|自己|密钥|模型|真"
        ),
    ),
    _talk(
        "hello",
        (
            "hi(?:ya)?|hello+|hey+|hallo|hola|howdy|yo|sup|greetings|good (?:morning|afternoon|evening|"
            "day)|how are you(?: doing)?|how is it going|how's it going|what's up|whats up|wassup|are "
            "you there|anybody there|anyone there|nice to meet you|test|testing|ping|你好|您好|嗨|哈喽|早上好|"
            "下午好|晚上好|早安|在吗|在不在|嘿|hello|最近怎么样|你好吗|测试"
        ),
        (
            "say|there|world|everyone|friend|bot|demo|model|agent|assistant|ai|you|today|doing|are|how|"
            "again|anyone|here|this|is|working|does|it|work|only|just|1 2 3|1|2|3|啊|呀|机器人|模型|世界|吗|好|助手|"
            "早"
        ),
    ),
    _talk(
        "okay",
        (
            "yes|yeah|yep|sure|ok|okay|fine|alright|got it|i see|understood|no|nope|nothing|never ?mind|"
            "continue|go on|proceed|next|stop|cancel|wait|好的|好|是的|是|嗯|行|可以|明白了|明白|"
            "知道了|继续|不|不用了|没有|没事|算了|停|"
            "取消"
        ),
        "that's|all|it|do|please|right|good|i|am|了|的|吧",
    ),
    _talk(
        "reverse",
        (
            "how (?:do i|to|do you|can i|would i|does one|can you|could i|should i)|what is|怎么|如何|怎样 && "
            "revers(?:e|ing)|反转|翻转|倒序 && strings?|text|字符串"
        ),
        f"{_ASK}|python|reverse|reversing|a string|in|best way to|way|to|best|easiest|字符串|里|中|用",
    ),
    _talk(
        "prime",
        (
            "what|explain|define|tell me about|什么是|是什么|何为|解释|什么叫 && primes?(?: numbers?)?|素数|质数"
        ),
        f"{_ASK}|number|numbers|definition|define|exactly|数|叫|何为",
    ),
    _talk(
        "fizzbuzz?",
        ("what|explain|how does|rules|什么是|是什么|规则|解释 && fizz[ -]?buzz"),
        f"{_ASK}|rules?|of|work|works|game|to play|played|规则|玩法",
    ),
    _talk(
        "fibonacci?",
        ("what|explain|define|tell me about|什么是|是什么|解释 && fibonacc?i|斐波那契"),
        f"{_ASK}|sequence|numbers?|series|define|数列|数",
    ),
)
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
    "thanks": Text("You are welcome. Here is more to try:", "不客气。还可以试试："),
    "bye": Text("Goodbye. The files stay in this conversation.", "再见。文件会留在这个对话里。"),
    "okay": Text("Tell me what to do next, for example:", "请告诉我接下来做什么，例如："),
    "hello": Text("Hello!", "你好！"),
    "help": Text("", ""),
    "who": Text("", ""),
}
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
    if key in _LONG or key in {"thanks", "okay"}:
        if key in _LONG:
            parts.append(say(Text("Try one of these:", "可以试试：")))
        parts.append(
            list_examples(site, is_chinese=is_chinese, count=len(EXAMPLES) if key in _LONG else 4)
        )
    if key in _LONG or (is_first and key != "connect"):
        parts.append(say(link_model(site)))
    return "\n\n".join(parts)
