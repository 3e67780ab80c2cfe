"""Words that do not change what a request asks for, in English and in Chinese, and the correction of typing errors."""

import re
from collections.abc import Iterable
from functools import cache, lru_cache

POLITE = (
    "please|pls|plz|kindly|hi|hello|hey|ok|okay|so|now|then|and|also|but|just|first of all|for me|to "
    "me|me|us|let's|lets|let us|"
    "(?:can|could|would|will|may) (?:you|u|i|we)(?: please)?|you|u|your|i|i'd|i'm|i am|i would|i've|we|"
    "we'd|want|wants|need|needs|like|love|"
    "would|like you|to|a|an|the|this|that|these|those|which|it|its|it's|them|there|there's|there is|"
    "there are|here|here's|in|into|on|onto|with|of|for|"
    "by|as|at|from|my|our|some|any|one|really|very|help|helps|able|going|go ahead|try|trying|"
    "thanks|thank you|thx|cheers|"
    "do|does|doing|be|is|are|should|shall|must|give|gives|show|shows|get|see|have|has|out|up|bit|quick|"
    "quickly|right now|right away|today|asap|"
    "if possible|if you can|dear|assistant|agent|buddy|man|everyone|curious|wondering|was|were|been|e\\.g|etc|"
    "is it possible(?: for you)?(?: to)?|would it be possible(?: for you)?(?: to)?|are you able to|do "
    "you think you (?:can|could)"
)
MAKING = (
    "simple|simply|small|short|little|basic|tiny|minimal|mini|nice|neat|clean|good|single|new|cool|"
    "working|complete|full|whole|own|easy|"
    "whip up|put together|come up with|craft|crafts|draft|drafts|hack together|compute|calculate|"
    "write|writes|writing|create|creates|creating|make|makes|making|build|building|generate|generates|"
    "generating|produce|produces|"
    "implement|implements|implementation|develop|prepare|set up|add|put|code up|code|save|saved|saving|"
    "store|stored|"
    "showing|display|displays|using|use|uses|"
    "in python|with python|using python|python ?3?(?:\\.\\d+)?|py|program|programme|script|snippet|file|"
    "thingy|thingie|thingamajig|doohickey|gizmo|whatsit|jobby|question|task|job|thing|something|stuff|"
    "work|called|named|name|titled|entitled|call|step by step|"
    "for example|example|learning|beginner|practice|homework|newbie"
)
POLITE_ZH = (
    "请问|请|麻烦|拜托|劳驾|帮帮我|帮我|帮忙|帮|给我|为我|替我|让我|我们|我想要|我想|我要|我需要|"
    "我希望|我|你好|您好|您|你|能不能|能否|可不可以|可以|能|"
    "想要|想|需要|要|希望|应该|一下子|一下|一个|一份|一段|一些|一|个|份|段|些|篇|只|用|通过|以|来|去|"
    "并且|并|然后|接着|之后|后|再|同时|另外|最后|首先|先|"
    "把|将|在|里面|里|中|上|下|内|的话|的|地|得|了|着|过|吗|吧|呢|啊|哦|呀|嘛|它们|它|这个|这些|这|"
    "那个|那|该|就|也|都|(?<![的之])和(?=[^。，])|与|及|"
    "以及|或|跟|为|对|对于|进行|"
    "谢谢|谢了|多谢|感谢|呗|哈|现在|今天|快速|快|能够|可以吗|好吗|行吗|怎么样|显示|展示|看看|看一下|看|有|是|给"
)
MAKING_ZH = (
    "写出|编写|写|编|创建|新建|建立|建|生成|制作|做出|做|弄|实现|开发|产生|出来|出|给出|使用|利用|程序|"
    "脚本|代码|文件|人|简单|小型|小|基本|简短|短|好用|漂亮|"
    "好|新|完整|整个|最|很|比较|成|作为|作|当|叫做|叫|名为|命名为|名字|文件名|名|完成|语言|python3|"
    "python|版本?的?|任务|工作|问题"
)
RUN = (
    "(?:and )?(?:then )?(?:run|runs|running|execute|executes|executing|launch|start) (?:it|this|that|"
    "the (?:program|script|file|code|result))"
    "(?: afterwards| once| too| for me| after(?:wards)?)?|run|runs|running|execute|executed|"
    "(?:and )?(?:then )?(?:show|print|display|give|tell|report|paste|return)s? (?:me |us )?(?:the |its "
    "|what the )?(?:output|outputs|results?|answer)(?: to me)?|"
    "(?:the |its )?(?:output|outputs|result|results)|what (?:it )?prints|what happens|test it(?: out)?|"
    "try it(?: out)?|"
    "(?:make sure|ensure|check|verify|confirm|so)(?: that)? it (?:works|runs|is correct|is right)|"
    "(?:check|verify)(?: that)? the (?:output|outputs|results?)(?: is (?:correct|right))?|when (?:it "
    "is |you are )?(?:done|finished|ready)"
)
RUN_ZH = (
    "(?:并|然后|再|最后)?(?:运行|跑|执行|试运行|启动)(?:一下|一遍|一次|起来|看看|它|该程序|程序|脚本)*|"
    "(?:显示|输出|打印|告诉我|给我看|看看|看一下|返回|展示)?(?:运行|程序|执行)?(?:的)?(?:输出结果|结果|"
    "输出)|确保(?:它)?(?:能|可以)?(?:正常)?(?:运行|"
    "工作)|测试一下它?是否(?:正常|正确)"
)
NO_RUN = (
    "(?:and |but )?(?:do not|don't|dont|no need to|without|but not) (?:running|run|executing|execute|"
    "yet run)(?: (?:it|this|that|the (?:program|script|file|code)))?(?: yet| now)?|"
    "(?:不要|不用|不必|别|无需|先不|先别)(?:运行|执行|跑)(?:它|程序|脚本)?"
)
SAVE = (
    "(?:and )?(?:saved?|saving|store|stored|storing|written|write|put|call|name|named|called)(?: (?:it|"
    "this|that|them|the (?:file|program|script|code|result|page)))?"
    "(?: (?:in|into|to|as|under|inside|at))?(?: (?:a|the))?(?: new)?(?: (?:file|script|program|"
    "page))?(?: (?:named|called|with the name|name))? (?=⟦f)|"
    "(?:in|into|to|as|called|named|inside|under|file ?name|name|filename)(?: (?:a|the))?(?: new)?(?: "
    "(?:file|script|program))?(?: (?:named|called))?:? (?=⟦f)|"
    "(?:and )?(?:save|saved|store) (?:it|this|that|them|the (?:file|program|script|code|result))?"
    "(?: (?:to|in|as|into) (?:a |the )?(?:file|disk|folder|workspace|working directory|current "
    "(?:folder|directory)))?"
)
SAVE_ZH = (
    "(?:并|然后)?(?:保存|另存|存储|存放|存|写|输出|命名|取名|起名|文件名|名字|叫)(?:为|到|在|成|进|入|"
    "做|是|叫|于)*(?:一个)?(?:文件)?(?:里|中)?"
)
STYLE = (
    "(?:with|add|include|including|has|have) (?:some |a few |good |helpful |clear )?(?:comments?|"
    "docstrings?)|(?:well[ -])?commented|readable|idiomatic|"
    "(?:pure|plain|vanilla) python|(?:the )?standard library(?: only)?|without (?:any )?(?:external |"
    "extra |third[ -]party )?(?:libraries|library|dependencies|packages|modules)|"
    "no (?:external |extra |third[ -]party )?(?:libraries|dependencies|packages)|(?:from the |on the "
    ")?(?:command line|terminal|console)|"
    "in (?:the |this |my |our |your )?(?:current |working |workspace )?(?:folder|directory|workspace|sandbox)"
)
PLAINLY = (
    "(?:in|using|with) (?:just |only )?(?:(?:a few|some|very|really|super|simple|plain|clear|easy|short|"
    "everyday|normal|non-technical|layman's|laymans|layman) )+(?:english|terms|words|language|sentences|"
    "steps)|(?:plain|simple|easy) (?:words|english)"
)
"""How a report may be worded. For a program that prints, the same words would change what it prints."""
STYLE_ZH = (
    "带(?:有)?(?:详细)?注释|加(?:上)?注释|不(?:使用|用|依赖)(?:任何)?(?:第三方|外部)(?:的)?(?:库|包)|"
    "标准库|(?:在)?(?:终端|控制台|"
    "命令行)(?:里|中|上)?|(?:在)?(?:当前|工作)(?:目录|文件夹|目录下)"
)

# Real words that one typing error separates from a word of the vocabulary.
_REAL = frozenset(
    [
        "lies",
        "pries",
        "tides",
        "bytes",
        "cites",
        "rites",
        "wits",
        "lice",
        "lone",
        "price",
        "prices",
        "crime",
        "crimes",
        "pride",
        "prize",
        "prizes",
        "primer",
        "primate",
        "primed",
        "courts",
        "county",
        "counts",
        "texts",
        "tents",
        "bests",
        "rests",
        "tent",
        "slit",
        "lint",
        "fist",
        "silt",
        "fires",
        "miles",
        "tiles",
        "piles",
        "sable",
        "brake",
    ]
)
_LOOKS_AHEAD = re.compile(r"\(\?=(?:[^()]|\([^()]*\))*\)\)?$")


def compile_words(*patterns: str) -> re.Pattern[str]:
    """Return a pattern of alternatives that match whole words in Latin script, and any characters in Chinese."""
    alternatives = []
    for pattern in filter(None, patterns):
        for alternative in split_alternatives(pattern):
            if re.search(r"[\u4e00-\u9fff]", alternative):
                # A Latin letter at an edge still ends a word.
                alternatives.append(
                    rf"(?:(?<![a-z0-9_'])|(?![a-z0-9]))(?:{alternative})(?:(?<![a-z0-9])|(?![a-z0-9_']))"
                )
            else:
                # An alternative that ends with a look at what follows needs no end of a word.
                end = "" if _LOOKS_AHEAD.search(alternative) else "(?![a-z0-9_']|-[a-z])"
                alternatives.append(rf"(?<![a-z0-9_'])(?:{alternative}){end}")
    return re.compile("|".join(alternatives))


@cache
def compile_shared(*, is_making: bool) -> re.Pattern[str]:
    """Return the pattern of the words that any task covers, with "write" and the like for a task that makes files."""
    making = (RUN, RUN_ZH, SAVE, SAVE_ZH, STYLE, STYLE_ZH, MAKING, MAKING_ZH)
    return compile_words("|".join((*(making if is_making else ()), POLITE, POLITE_ZH)))


def split_alternatives(pattern: str) -> list[str]:
    """Return the alternatives of a pattern at its highest level, the longest first."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(pattern):
        if character in "([" and pattern[position - 1 : position] != "\\":
            depth += 1
        elif character in ")]" and pattern[position - 1 : position] != "\\":
            depth -= 1
        elif character == "|" and depth == 0:
            parts.append(pattern[start:position])
            start = position + 1
    parts.append(pattern[start:])
    return sorted(filter(None, parts), key=len, reverse=True)


def find_words(patterns: Iterable[str]) -> frozenset[str]:
    """Return the Latin words of at least two letters that occur in patterns."""
    words: set[str] = set()
    for pattern in patterns:
        plain = re.sub(r"\\[a-zA-Z]", " ", pattern)
        for stem, options in re.findall(r"([a-z]{2,})\(\?:([a-z|]+)\)", plain):
            words.update(stem + option for option in options.split("|"))
        for stem, letter in re.findall(r"([a-z]{2,})([a-z])\?", plain):
            words.update((stem, stem + letter))
        words.update(re.findall(r"[a-z]{2,}", plain))
    return frozenset(words)


@lru_cache(maxsize=4_096)
def correct(word: str, known: frozenset[str], targets: frozenset[str]) -> str:
    """Return the word of ``targets`` that a mistyped word means, or the word itself.

    A word that is a real one is left alone. A short word is corrected only if two letters are swapped or one is
    missing, because a wrong letter often makes another word of the language ("prices").
    """
    if word in known or word in _REAL or len(word) < 4:
        return word
    found = sorted(target for target in targets if _is_typo(word, target))
    return (
        found[0]
        if len(found) == 1 or (found and len({f.rstrip("s") for f in found}) == 1)
        else word
    )


def _is_typo(word: str, target: str) -> bool:
    size = len(target)
    if size < 4 or abs(len(word) - size) > 2 or word[0] != target[0]:
        return False
    if len(word) == size:
        different = [i for i in range(size) if word[i] != target[i]]
        if len(different) == 2 and different[1] == different[0] + 1:
            i, j = different
            return word[i] == target[j] and word[j] == target[i]
        return len(different) <= (size >= 7) + (size >= 10)
    if len(word) < size:
        return size >= 5 and (
            _lacks_one(word, target)
            if size - len(word) == 1
            else size >= 9 and _distance(word, target) <= 2
        )
    doubled = any(
        word[i] == word[i + 1] and word[:i] + word[i + 1 :] == target for i in range(size)
    )
    return (
        doubled
        or (size >= 7 and _lacks_one(target, word))
        or (size >= 9 and _distance(word, target) <= 2)
    )


def _lacks_one(short: str, long: str) -> bool:
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def _distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
