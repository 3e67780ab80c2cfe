"""Tasks that look into many files at once: search a text, and the state of a Git repository."""

import shlex
from dataclasses import replace

from billing.gateway.demo.order import Declined, Order, Task
from billing.gateway.demo.tasks.files import HERE, Report
from billing.gateway.demo.workbench import Bench, Result, Text

# --- Search -------------------------------------------------------------------------

_TERM = (
    "(?P<term>(?!(?:it|that|this|the|an|any|anything|some|something|all|what|my|your|our|them|these|"
    "those|which|where|"
    "and|or|in|is|are|of|to|for|with|lines?|files?|words?|text|code|comments?|names?|every|each|used|no|not|"
    "todos?|fixmes?)\\b)[a-z_][a-z0-9_]{1,39})"
)


def _check_search(order: Order) -> Order:
    term = (
        order.texts[0]
        if order.texts
        else next(
            (
                v.upper() if v in {"todo", "fixme"} else v
                for k, v in order.values.items()
                if k == "term"
            ),
            "",
        )
    )
    if not term.strip() or "\n" in term:
        raise Declined(
            Text(
                'Put the text to search in quotes, please; for example: search for "TODO"',
                "请给要搜索的文字加引号，例如：搜索“TODO”",
            )
        )
    is_exact = bool(order.texts) or term.isupper()
    if kind := order.values.get("defined"):
        term = f"class {term}" if kind == "class" else f"def {term}"
    return replace(order, values=order.values | {"term": term, "is_exact": is_exact})


def _do_search(order: Order, bench: Bench) -> Report:
    term = order.values["term"]
    case = "" if order.values["is_exact"] else "i"
    result: Result = yield from bench.run(
        f"grep -rnI{case}F --exclude-dir=.git --exclude-dir=node_modules -e {shlex.quote(term)} . | head -n 100",
        bench.say("I search the files.", "我在文件里搜索。"),
        "Search",
    )
    lines = [line for line in result.output.splitlines() if line.strip()]
    if not result.is_success:
        return bench.say("The search failed.", "搜索失败了。") + f"\n\n{result.outline()}"
    if not lines:
        return bench.say(f"No file here contains “{term}”.", f"这里没有文件包含“{term}”。")
    more = bench.say(" (the first 100)", "（只列前 100 处）") if len(lines) >= 100 else ""
    return (
        bench.say(
            f"“{term}” is in {len(lines)} {'line' if len(lines) == 1 else 'lines'}{more}:",
            f"“{term}”出现在 {len(lines)} 行里{more}：",
        )
        + f"\n\n{result.outline()}"
    )


SEARCH = Task(
    key="search",
    title=Text("a search in the files", "在文件里搜索"),
    needs=(
        (
            "还有|什么地方|揪出来|"
            "where's|round (?:them )?(?:all )?up|sniff|还有没有|有没有|"
            "hunt(?:ing)?(?: down)?(?: for)?|dig (?:up|out|through)|track(?:ing)? down|scan|"
            "comb(?: through)?|sniff out|"
            "point me to|turn up|搜搜|搜一?搜|找找|翻翻|翻一?下|"
            "mentions? of|look(?:ing)? through|does the (?:word|text)|is there|are there|哪里|哪儿|哪些|"
            "哪个|在哪|find|finds|search|searches|searching|grep|"
            "look for|locate|list|"
            "show|where|which|any|every place|all places|查找|"
            "搜索|寻找|找出|找到|找|列出|搜|查"
        ),
        (
            "(?=⟦t)|mentions? of [a-z0-9_]{2,40}|有[a-z_][a-z0-9_]*|找一?下[a-z_][a-z0-9_]*|"
            "occurrences? of [a-z0-9_]{2,40}|(?:word|term|string) [a-z0-9_]{2,40}|"
            "grep (?:for )?[a-z0-9_]{2,40}|todos?|fixmes?|"
            "待办注释|todo注释|"
            "(?:is|are|gets?|be) (?:used|called|mentioned|defined|imported|declared)|where (?:is|are|does|"
            "do)|mentioned|(?:files?|lines?|places?|code) (?:that |which |where )*(?:mentions?|"
            "mentioning|contains?|containing|uses?|using|imports?|calls?)|用到|用了|出现|提到|调用|"
            "使用了|在(?:哪些|哪个|哪里)"
        ),
    ),
    words=(
        f"{HERE}|hunt(?:ing)?(?: down)?(?: for)?|dig (?:up|out|through)|track(?:ing)? down|scan|comb(?: through)?|"
        f"sniff out|point me to|turn up|lying around|look(?:ing)? through|mentions?|anywhere|mentioned|"
        f"defined|declared|imported|check|checks|"
        f"function|method|class|variable|for|"
        f"places?|spots?|file and line(?: numbers?)?|(?:with )?(?:the )?line numbers?|the text|text|"
        f"string|word|phrase|term|occurrences?(?: of)?|all|every|in|files?|"
        f"comments?|notes?|across|through|throughout|lines?|that|contains?|containing|mentions?|"
        f"mentioning|with|"
        "没做|没写|没|还有|什么地方|揪出来|遗留|remarks?|remain(?:s|ing)?|sources?|源码|"
        "wrote|written|left|leave|leaves|leaving|scattered|hiding|hidden|lurking|sniff|round (?:them "
        ")?(?:all )?up|还有没有|有没有|"
        "is|are|used|appears?|occurs?|where|which|any|markers?|left|items|"
        "哪里|哪儿|哪个|地方|用到|用了|位置|行号|一下|搜一下|帮我搜|的|文字|文本|字符串|单词|词|所有的?|"
        "全部的?|包含|含有|出现|文件|注释|哪些|哪里|在|里|中|标记|地方|有"
    ),
    parameters=(
        "(?P<term>todo|fixme)s?",
        ("(?:word|term|string) (?P<term>[a-z0-9_]{2,40})"),
        "grep (?:for )?(?P<term>[a-z0-9_]{2,40})(?= in|$|[.?!])",
        (
            f"(?:where|which|that) (?:is |are |does |do (?:i|we|you) (?:use|call|mention) )?{_TERM}"
            "(?= (?:is |are |gets? )?(?:used|called|mentioned|defined|imported|declared|appears?|occurs?|in)|[?]|$)"
        ),
        f"(?P<defined>(?:function|method|class)) {_TERM}(?= (?:is |gets? )?(?:defined|declared))",
        (
            f"(?:function|method|class|variable|constant|name) {_TERM}(?= (?:is |gets? )?(?:used|called|"
            f"defined|declared))"
        ),
        (
            f"(?:mentions?|mentioning|contains?|containing|uses?|using|imports?|calls?|"
            f"search(?: everywhere)? for) {_TERM}"
        ),
        f"(?:occurrences?|mentions?) of {_TERM}",
        f"(?:里|中)(?:都)?有{_TERM}",
        f"(?:搜索?|查找?|找)(?:一?下|找)?{_TERM}(?=在|出现|$|[。？！,.?!])",
        f"(?:用到了?|用了|使用了?|出现了?|提到了?|提及了?|包含了?|含有|调用了?|搜索?(?:一?下)?){_TERM}",
    ),
    max_texts=1,
    forbids="(?:and|then|n) (?:just |then |please )?(?:do|fix|resolve|handle|finish|close|complete|"
    "tackle|scrub|remove) (?:them|it|each|all)|since|older|newer|by whom|who(?:se|'s)?|"
    "whole words?|todo[ -]?(?:lists?|page|app)|to-do|names?|named|called|待办清单|待办列表",
    check=_check_search,
    carry_out=_do_search,
)


# --- Git ----------------------------------------------------------------------------


def _do_git(order: Order, bench: Bench) -> Report:
    count = min(int(order.values.get("n", 10)), 50)
    result: Result = yield from bench.run(
        "git rev-parse --is-inside-work-tree",
        bench.say(
            ("First I check that this is a Git repository."), "我先看看这里是不是 Git 仓库。"
        ),
        "Look for Git",
    )
    if not result.is_success:
        return bench.say(
            ("The working directory is not a Git repository, so there is nothing to tell."),
            "工作目录不是 Git 仓库，所以没有可说的。",
        )
    state: Result = yield from bench.run(
        ("git --no-pager status --short --branch"),
        bench.say("Its state:", "它的状态："),
        "Show the state",
    )
    log: Result = yield from bench.run(
        f"git --no-pager log --no-decorate --date=short --format='%h %ad %an: %s' -n {count}",
        bench.say("Its newest commits:", "最近的提交："),
        "Show the commits",
    )
    commits = (
        log.outline() if log.is_success else bench.say("There are no commits yet.", "还没有提交。")
    )
    changed = [line for line in state.output.splitlines() if line and not line.startswith("##")]
    return bench.say(
        f"{len(changed)} files have changes that are not committed.\n\n{state.outline()}\n\n"
        f"The newest commits:\n\n{commits}",
        f"有 {len(changed)} 个文件有未提交的改动。\n\n{state.outline()}\n\n最近的提交：\n\n{commits}",
    )


GIT = Task(
    key="git",
    title=Text("the state of the Git repository", "Git 仓库的状态"),
    needs=(
        (
            "git(?:现在|目前)?怎么样|没有?交|"
            "(?:what|how) (?:does |is |has |did )?git|git (?:says?|has to say|thinks?)|untracked|"
            "(?:git )?tree (?:is )?clean|(?:my|the|our) git (?:tree|state|situation|repo)|git status|"
            "git log|git history|commit (?:history|log)|commits|git(?: repo(?:sitory)?)?(?: "
            "status| state| history| log)|(?:status|state|history|summary|overview|log) of (?:the |"
            "this |my )?(?:git|repo)|git branch|is everything committed|has been committed|忘记?提交|"
            "(?:forget|forgot|forgotten|anything|something) to commit|"
            "(?:改了|动了)(?:哪些|什么|啥)|uncommitted|what (?:was|is|has been|have we|have i|did (?:i|"
            "we)) (?:been )?commit(?:ted)?|(?:is|are) (?:my|our|the) (?:git )?(?:repo(?:sitory)?|"
            "working tree|git)|哪个git分支|what(?: has|'s| is| have i)? changed|which branch|"
            "what branch|current branch|(?:did|have|has) (?:i|we|anything|something|"
            "any files?) (?:been )?(?:change|changed|commit|committed)|(?:is|are) (?:we|this|it|"
            "there) (?:in )?(?:a )?git|git(?:现在|目前)?是?(?:什么|啥)(?:状态|情况)|最近有?(?:哪些|什么|"
            "几次)提交|没有?提交的?(?:代码|改动|文件|东西)|not (?:yet )?committed|"
            "(?:last|latest|recent|newest) commits?|pending changes|working tree|unsaved changes|没有?提交|未提交|"
            "(?:有没有|哪些|什么)改动|最近提交|提交记录|提交历史|最近的?提交|git状态|git日志|git 状态|git "
            "日志|git 仓库|git仓库|次提交|"
            "哪个分支|当前分支|提交日志|忘了提交|仓库(?:现在|目前)?(?:是)?(?:什么|啥)(?:情况|状态)"
        ),
    ),
    words=(
        f"怎么样|没有?交|交|{HERE}|untracked|modified|has to say|says?|thinks?|at the moment|tree|situation|git|status|"
        f"state|"
        f"history|log|logs|summary|summari[sz]e|overview|commits?|branch|"
        f"branches|changes?|changed|recent|latest|last|newest|what|which|is|are|was|on|show|tell|"
        f"happened|check|list|uncommitted|of|about|and|files|repo(?:sitory)?|am i|we|"
        "谁|谁提交的|what|who made(?: (?:them|it|those|these|the last (?:one|commit)))?|who|when|about|"
        "were|git|in a|代码|东西|情况|"
        "忘记?了?|has been|forget|改了?|动了?|whether|forgot|forgotten|to commit|something|anything|any|"
        "few|couple of|saved|"
        "everything|clean|dirty|pending|staged|unstaged|since (?:my |"
        "the |our )?last "
        "commit|not (?:yet )?committed|committed|commit|not|working tree|"
        "有没有|没有|还没有?|没|未|改过|动过|未提交|几次|几个|几条|看|查看|显示|总结|概括|状态|日志|历史|"
        "提交|记录|最近|最新|分支|的|次|条|哪个|是|什么|有|哪些|"
        "变化|改动|修改|仓库|检查"
    ),
    parameters=(
        ("(?:the )?(?:last|latest|recent|newest|most recent|past) {n}(?: git)? ?(?=commits?)"),
        "last {n}(?=[,.!?]|$)",
        "最近的?{n}(?:次|个|条)(?:的)?",
    ),
    forbids=(
        "(?:please|and|then|(?<!forget )(?<!forgot )(?<!forgotten )(?<!anything )(?<!something )to|can you|"
        "could you) commit|git commit|(?<!did i )(?<!have i )(?<!did we )(?<!have we )commit (?:my|it|them|this|these|"
        "everything|all|the (?:changes|rest|files))|"
        "stage (?:everything|all|it|them|my|the)|"
        "should|since(?! (?:my |the |our )?last commit)|yesterday(?:'s)?|today|tonight|weeks?|months?|years?|"
        "days?|hours?|ago|before|after|by|whose|has(?! been)|what(?:'s| is) in|"
        "why|how|author|between|every|each|(?:就|并|再|给|顺便|然后)(?:都|全)?提交|(?:就|都|给)交了|昨天|今天|前天|上周|本周|这周|为什么|怎么|之前|以前|以后"
    ),
    carry_out=_do_git,
)
