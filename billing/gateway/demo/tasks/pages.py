"""The to-do page: one HTML file that works in a browser without a server."""

import re
from collections.abc import Generator
from typing import Any

from billing.gateway.demo.order import Declined, Order, Task
from billing.gateway.demo.tasks.programs import quote
from billing.gateway.demo.workbench import MATERIAL, Bench, Result, Text
from billing.gateway.script import Step

# Orders about a list that somebody already has.
_OWN_LIST = re.compile(
    r"^(?:(?:please|can you|could you|i want to|i need to|i'd like to|let's|now|and)[ ,]*)*"
    r"(?:(?:add|put(?! together)|edit|delete|remove|tick|check|mark|complete|clear|finish|filter|save|"
    r"store|open|keep|"
    r"toggle|cross|read|print|view)\b"
    r"|(?:show|see|display|get|give|tell|list)\b(?! me (?:a|an|how)\b| us a\b))"
    r"|^(?:给|把|将|在)⟦f|⟦f\d+⟧(?:里|中|的)|\bto (?:my|the) (?:to-?do|list|todos)|\bon my\b|^what|给待办|"
    r"查看|打开|显示"
)


def _check_todo(order: Order) -> Order:
    text = order.reading.text
    if re.search(
        r"\b(?:python|py|script|program|terminal|console|command[ -]line)\b|脚本|命令行|终端|控制台",
        text,
    ):
        raise Declined(
            Text("I make to-do lists only as a page in HTML.", "待办清单我只做成 HTML 网页。")
        )
    if "things to do" in text and not re.search(r"page|website|\bapp\b|html|网页|页面", text):
        raise Declined
    if _OWN_LIST.search(text):
        raise Declined
    return order


def _do_todo(order: Order, bench: Bench) -> Generator[Step, Any, str]:
    name_asked = order.output or "todo.html"
    content = (MATERIAL / "todo.html").read_text(encoding="utf-8")
    yield from bench.plan(
        bench.say("Look around", "查看工作目录"),
        bench.say(f"Write {name_asked}", f"写 {name_asked}"),
        bench.say("Check the file", "检查文件"),
    )
    yield from bench.look(name_asked.rpartition("/")[0])
    path = yield from bench.create(name_asked, content)
    result: Result = yield from bench.run(
        f"wc -c < {quote(path)} && grep -c 'localStorage' {quote(path)}",
        bench.say(("I check that it was written completely."), "我检查它是否写完整。"),
        "Check the page",
    )
    is_right = result.is_success and result.output.split()[:1] == [str(len(content.encode()))]
    yield from bench.close_plan(None if is_right else 2)
    written = bench.say(
        (f"I wrote `{path}`.{bench.tell_name(name_asked, path)}"),
        f"我写了 `{path}`。{bench.tell_name(name_asked, path)}",
    )
    if not is_right:
        return written + bench.say(
            (f" But the check failed:\n\n{result.outline()}"),
            f" 但是检查没有通过：\n\n{result.outline()}",
        )
    return written + bench.say(
        " It is one HTML file: add, edit (double-click), tick off, filter and delete tasks; the browser keeps them. "
        "Open it from the Files tab of this page, or download it and open it in a browser. I did not "
        "open it in a browser myself.",
        " 它是一个单独的 HTML 文件：可以添加、编辑（双击）、勾选、筛选和删除任务，浏览器会保存它们。"
        "请在本页的“Files”标签里打开，或下载后用浏览器打开。我自己没有在浏览器里打开过它。",
    )


TODO = Task(
    key="todo",
    title=Text("a to-do page", "待办事项页面"),
    needs=(
        (
            "记(?:一下|下来|录|住)?(?:每天|今天|平时|日常)?(?:要|该|得)做(?:啥|什么|的)(?:的?事情?)?|"
            "(?:managing|tracking|organi[sz]ing) (?:my |the )?(?:tasks|todos)|(?:my|"
            "our) (?:daily )?tasks|要做的(?:事情?|事儿)|chores|errands|what needs (?:doing|to be done)|what (?:i|"
            "we) (?:still )?(?:need|have) to (?:do|get done)|things (?:that )?(?:i|"
            "we) (?:still )?(?:have|need) to do|(?:tick|check|cross) (?:(?:them|things|"
            "tasks|items|stuff) off|off (?:tasks|things|items))|能?记事(?:情|儿)?|记待办|记任务|打勾|"
            "打钩|勾选|to[ -]?do(?:s|'s|[ -]?lists?)?|todolist|task[ -]?list|checklist|tasks? (?:tracker|"
            "manager|"
            "page|app)|(?:add|manage|track|organi[sz]e|keep track of)(?: my| new| some)? tasks|待办|任务清单|"
            "任务列表|代办"
        ),
        (
            "chrome|firefox|safari|edge|browser|page|webpage|app|application|html|website|web|site|"
            "lists?|list|tool|tracker|manager|"
            "todolist|checklist|页面|网页|网站|应用|清单|列表|事项|app"
        ),
    ),
    words=(
        "(?:when|after|even if|once) i (?:close|closed|reopen|restart|come back)(?: (?:to )?(?:it|"
        "the (?:tab|browser|window|page)|"
        "my (?:browser|computer|laptop)))?|sticky notes|post-?its?|勾|打个勾|界面随便|界面|随便|"
        "chrome|firefox|safari|edge|(?:something|sth) i can|"
        "throw away|get rid of|clear out|the old ones|old ones|old|ones|(?:the )?(?:done|finished) ones|"
        "网页版|版|页|"
        "每天|日常|要做的(?:事情?|事儿)|managing|tracking|organi[sz]ing|write down|note down|jot down|"
        "type in|enter|put|chores|errands|"
        "stuff|things|(?:when|once|as|after) (?:i'm |i am |they are |they're |it is |it's )?"
        "(?:done|finished|completed?)|dont need|no login|no account|list of things|"
        "记录?|记事(?:情|儿)?|事情|记下来?|删掉|删|加|增删|做完了?|勾掉|划掉|打勾|打钩|样子|的?小网页|"
        "一个html文件|只用一个|一个文件|"
        "manage my|pages?|web ?pages?|web ?app|app|application|apps|html5?|css3?|java ?script|js|website|site|"
        "web|lists?|items?|tasks?|todos?|entries|tool|tracker|manager|interface|ui|frontend|front-end|"
        "(?:html|css|js|javascript)(?:(?:,| and|/|\\+)? ?(?:html|css|js|javascript))*|browser|in the "
        "browser|browser-based|client[- ]side|plain|vanilla|pure|without (?:a |any )?(?:frameworks?|"
        "server|libraries|dependencies|backend)|no (?:frameworks?|server|backend|libraries|"
        "dependencies|build step)|"
        "self[- ]contained|standalone|stand[- ]alone|single[- ](?:file|page)|in (?:one|a single|1) "
        "(?:html )?file|static|offline|works offline|local|locally|"
        "keep track of|track|manage|organi[sz]e|my tasks|where i can|where you can|that lets me|lets "
        "me|allows?(?: me| users?| you)? to|users?|i can|can|able to|let me|"
        "add|adding|adds|create|edit|editing|delete|deleting|remove|removing|tick|ticking|check|"
        "checking|mark|marking|complete|completing|finish|cross|crossing|strike|toggle|off|out|as|done|"
        "completed|finished|new|filter|filters|filtering|clear|"
        "checkbox(?:es)?|buttons?|button|counter|input|field|saves?|saved|saving|keep|keeps|keeping|"
        "remember|remembers|persist|persists|persistence|persistent|stores?|stored|storing|data|local "
        "?storage|using local ?storage|after (?:a )?(?:reload|refresh)|between (?:reloads|visits|"
        "sessions)|across (?:reloads|sessions)|when i (?:reload|refresh)|reload|refresh|page|"
        "dark mode|dark theme|light and dark|responsive|mobile[- ]friendly|mobile|phones?|modern|"
        "beautiful|pretty|minimalist|stylish|styled|good[- ]looking|looking|looks? (?:good|nice)|"
        "design|elegant|user[- ]friendly|functional|open|opens|works|working|daily|day|personal|"
        "interactive|"
        "页面|网页|网站|应用|清单|列表|事项|事|任务|待办事项|工具|单个|单页|一页|打开|浏览器|可以|能|"
        "支持|添加|增加|新增|删除|移除|编辑|修改|勾选|打勾|标记|完成|已|"
        "为|过滤|筛选|保存|本地存储|本地|存储|刷新|后|不丢失|数据|"
        "前端|纯|原生|美观|漂亮|响应式|深色模式|暗黑模式|手机|移动端|简洁|现代|功能|带|有|html|css|"
        "javascript|离线|无需后端|不需要后端|单文件|管理|小|里"
    ),
    forbids=(
        "(?:mode|theme|dark|light) (?:toggle|switch|button)|toggle (?:for )?(?:the )?(?:dark|light|theme)|"
        "due|deadlines?|"
        "and me(?! [a-z])|(?:he|she|they) (?:should|can|must)|各自|各用|我跟|我和|对方|一起用|"
        "about|my (?:own )?name|our names|logo|(?:my|our) (?:wife|husband|family|team|kids?|friends?|colleagues?|"
        "roommates?|flatmates?|boss|partner|girlfriend|boyfriend)(?: and i)? (?:can|could|should|to)|both of us|"
        "for (?:a|the|my|our|his|her|their) (?:whole |entire )?(?:team|family|group|couple|class|office|"
        "department|kids?)|"
        "all of us|we both|we all|(?:一家人|全家|大家|同事们?|团队|老婆|老公)(?:都|也|一起)"
    ),
    outputs=("html", "htm"),
    stems="^to-?do|待办",
    check=_check_todo,
    carry_out=_do_todo,
)
