"""A request in normal form: file names, quoted texts and code are replaced by marks, and the rest is in lower case.

The marks are ``⟦f0⟧`` for a file name, ``⟦t0⟧`` for a quoted text, ``⟦c0⟧`` for a block of code and ``⟦u0⟧`` for an
address; the number is the index in the list of the ``Reading``.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from billing.gateway.demo import wording
from billing.gateway.demo.numerals import write_digits

MAX_REQUEST = 20_000
"""The maximum number of characters of a request. The demo model declines a longer one."""
EXTENSIONS = (
    "py|pyw|ipynb|sh|bash|zsh|bat|ps1|txt|text|md|rst|json|jsonl|csv|tsv|html|htm|css|js|mjs|ts|jsx|"
    "tsx|vue|yaml|yml|toml|ini|cfg"
    "|conf|env|log|sql|db|sqlite|xml|svg|c|h|cpp|cc|hpp|cs|java|kt|go|rs|rb|php|pl|lua|swift|r|m|scala|"
    "hs|exe|pdf|docx?"
    "|xlsx?|pptx?|png|jpe?g|gif|zip|tar|gz|lock"
)
_BARE_NAMES = "Makefile|Dockerfile|README|LICENSE|CHANGELOG|Procfile|Gemfile|Jenkinsfile"
_FENCE = re.compile(r"```([\w+-]*)[ \t]*\r?\n(.*?)```", re.DOTALL)
_ADDRESS = re.compile(r"\b(?:[a-z][a-z+]{1,8}://|www\.|git@)[^\s，。；、）)\]]+", re.IGNORECASE)
_QUOTED = re.compile(
    r"\"([^\"\n]{0,600})\"|“([^”\n]{0,600})”|„([^“”\n]{0,600})[“”]|`([^`\n]{0,600})`|「([^」\n]{0,600})」|"
    r"『([^』\n]{0,600})』"
    r"|《([^》\n]{0,600})》|«([^»\n]{0,600})»|(?<![^\W_])'([^'\n]{0,600})'(?![^\W_])|‘([^’\n]{0,600})’(?![^\W_])"
)
_FILE = re.compile(
    rf"(?:(?<=\s)|(?<=^)|(?<=[(:：，,、（]))[^\s\"'`:*?<>|，。；"
    rf"：、（）()⟦⟧!?,;=]{{1,120}}\.(?:{EXTENSIONS})(?![A-Za-z0-9_/\\-])(?!\.[A-Za-z0-9])"
    rf"|[A-Za-z0-9_~./\\-]{{1,120}}\.(?:{EXTENSIONS})(?![A-Za-z0-9_/\\-])(?!\.[A-Za-z0-9])"
    rf"|(?<![\w./\\-])[.~]?[A-Za-z0-9_.-]{{0,60}}(?:/[A-Za-z0-9_.-]{{0,60}}){{1,20}}"
    rf"|(?<![\w./\\-])(?:{_BARE_NAMES})(?![\w-])|(?<![\w./\\-])\.(?:gitignore|env|bashrc|dockerignore)(?![\w-])",
    re.IGNORECASE,
)
_IS_FILE = re.compile(rf"(?:.*\.(?:{EXTENSIONS})|{_BARE_NAMES}|\.[\w.-]+)", re.IGNORECASE)
# Words that stand directly before a file name in Chinese, where no space separates them.
_GLUED = re.compile(
    "^(?:请|帮我|把|将|保存|另存|存|命名|取名|改名|名字|文件名|文件|名|叫|做|作|成|为|到|在|给|对|用|"
    "写|编写|创建|新建|生成|建立|解释|说明|介绍"
    "|讲解|分析|统计|汇总|总结|概括|查看|显示|打开|读取|读|运行|执行|测试|一下|一个|里|和|的|是|看看|"
    "看|下|数一下|数数|数|统计一下|汇总一下|总结一下|这份|这个|这张|那份|那个|那张|我的|你的|您的|从|"
    "几个|一些|求|讲讲|讲一讲|捋捋|捋一捋|梳理|科普|扒一扒|剖析|拆解|解读|瞅瞅|瞅一眼|瞄一眼|瞧一眼|"
    "些|下|看下|瞧瞧|帮忙|麻烦|就|請|將|儲存|檔案|"
    "檔名|為|給|對|寫|"
    "創建|建立|解釋|說明|介紹|講解|統計|彙總|總結|顯示|執行|測試|一個|個)+"
)
# A name behind another name, or behind words, with a Chinese preposition between them.
_GLUED_WITHIN = re.compile(r"(.*[给和跟与把对为及加用到成在存叫进])([A-Za-z0-9_][A-Za-z0-9_./-]*)")
# Words that stand before a name and are no part of it.
_BEFORE_NAME = re.compile(
    "(?:的|文件|数据|表格?)$|讲解|解释|说明|介绍|看看|打开|统计|汇总|总结|测试|给我|帮我|显示|读"
)
_TRADITIONAL = str.maketrans(
    "寫個質數檔執開發運儲為並這裡給幫請說釋統計總結講測試網頁單辦務錄資夾誤專範樣個項倉庫補註釋碼語話間內處過從後與於嗎們對應無復製備創產顯讀"
    "檢轉換輸點擊種類麼時還當兩來東現會沒電腦頭過實際難學習號問題錢幾鐘關閉連線驗證變變動狀態歷記憶體簡單編輯圖片倒敘迴歸遞歸設計算術標準詞彙滿傳遞費氣溫華氏順階乘絕謝歡誰賴塊訊執彙",
    "写个质数档执开发运储为并这里给帮请说释统计总结讲测试网页单办务录资夹误专范样个项仓库补注释码语话间内处过从后与于吗们对应无复制备创产显读"
    "检转换输点击种类么时还当两来东现会没电脑头过实际难学习号问题钱几钟关闭连线验证变变动状态历记忆体简单编辑图片倒叙回归递归设计算术标准词汇满传递费气温华氏顺阶乘绝谢欢谁赖块讯执汇",
)
_TERMS = {
    "档案": "文件",
    "资料夹": "文件夹",
    "程式码": "代码",
    "程式": "程序",
    "列印": "打印",
    "储存": "保存",
    "专案": "项目",
    "范例": "示例",
    "目前": "当前",
    "档名": "文件名",
    "字串": "字符串",
    "函式": "函数",
    "资讯": "信息",
    "脚本程序": "脚本",
    "预设": "默认",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A request in normal form, with the things that its marks stand for."""

    text: str = ""
    files: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    codes: list[tuple[str, str]] = field(default_factory=list)
    """Blocks of code, as (language, code)."""
    is_chinese: bool = False


def read(request: str) -> Reading:
    """Return a request in normal form."""
    request = unicodedata.normalize("NFC", request).translate({ord("⟦"): " ", ord("⟧"): " "})
    files: list[str] = []
    texts: list[str] = []
    codes: list[tuple[str, str]] = []

    def keep(kind: str, things: list[str], thing: str) -> str:
        things.append(thing)
        return f" ⟦{kind}{len(things) - 1}⟧ "

    def keep_quoted(match: re.Match[str]) -> str:
        content = next(group for group in match.groups() if group is not None)
        if _IS_FILE.fullmatch(content.strip()) and len(content) <= 150:
            return keep("f", files, content.strip())
        return keep("t", texts, content)

    def keep_code(match: re.Match[str]) -> str:
        codes.append((match[1].lower(), match[2]))
        return f" ⟦c{len(codes) - 1}⟧ "

    def keep_file(match: re.Match[str]) -> str:
        name = match[0]
        if re.fullmatch(r"[A-Za-z]{1,12}/[A-Za-z]{1,12}(?:/[A-Za-z]{1,12})?", name):
            return name.replace("/", " / ")  # "and/or", not a path
        if glued := _GLUED_WITHIN.fullmatch(name):
            return _FILE.sub(keep_file, glued[1]) + keep("f", files, glued[2])
        end = _find_glue(name)
        if end and not name[end:].startswith("."):
            return name[:end] + keep("f", files, name[end:])
        return keep("f", files, name)

    text = _FENCE.sub(keep_code, request[:MAX_REQUEST])
    text = re.sub(r"\b[Ww]/o(?:ut)?\b", "without", text)
    text = re.sub(r"\b[Ww]/ ?(?=[A-Za-z])", "with ", text)
    text = _ADDRESS.sub(" ⟦u0⟧ ", text)
    text = _QUOTED.sub(keep_quoted, text)
    text = _FILE.sub(keep_file, text)
    # A full-width comma between numbers separates them; "1,000" is one number.
    text = (
        unicodedata.normalize("NFKC", re.sub(r"([，、]|(?<=[\u4e00-\u9fff]),)", r"\1 ", text))
        .replace("’", "'")
        .replace("‘", "'")
        .lower()
    )
    text = text.translate(_TRADITIONAL)
    for term, other in _TERMS.items():
        text = text.replace(term, other)
    text = re.sub(r"\s+", " ", text).strip()
    # In Chinese, spaces beside characters mean nothing.
    text = re.sub(r"(?<=[\u4e00-\u9fff]) | (?=[\u4e00-\u9fff])", "", text)
    text = re.sub(r"(?<=[^0-9]),(?=[0-9])", ", ", write_digits(text))
    chinese = len(re.findall(r"[\u4e00-\u9fff]", request))
    is_chinese = chinese > 0 and chinese * 3 >= len(re.findall(r"[A-Za-z]{2,}", text))
    return Reading(text, files, texts, codes, is_chinese)


def _find_glue(name: str) -> int:
    """Return how many Chinese characters at the beginning of a name are words of the request and not of the name."""
    glued = _GLUED.match(name)
    end = glued.end() if glued else 0
    chinese = re.match(r"[\u4e00-\u9fff]+(?=[A-Za-z0-9_])", name[end:])
    if chinese and (wording.covers_chinese(chinese[0]) or _BEFORE_NAME.search(chinese[0])):
        end += chinese.end()
    return end


def find_fault(name: str) -> str | None:
    """Return why a file name of a request is not used, as "outside", "name" or "long", or None for a good name."""
    path = PurePosixPath(name)
    if name.startswith(("/", "~", "\\")) or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        return "outside"
    if any(part.startswith("-") for part in path.parts) or re.search(
        r"[\x00-\x1f\x7f\\\"'`$*?<>|]", name
    ):
        return "name"
    if not path.parts or len(name.encode()) > 200:
        return "long"
    return None
