"""The demo model, which works without an API key and does a small, visible piece of real work.

It knows a catalogue of small tasks in English and Chinese (``catalogue``) and does each with the agent's tools. A
request that it does not understand in all its parts (``understanding``) gets one message that says so, and no file is
touched. If a request contains lines that begin with ``!``, the demo model follows this script instead
(``billing.gateway.script``). Each reply depends only on the request, so nothing is stored between calls: the task runs
again from its beginning with the results of the steps that are in the request, and the first step without a result is
the reply.
"""

from billing.gateway import script
from billing.gateway.demo import offers, talk, turns
from billing.gateway.demo.catalogue import UNDERSTANDING
from billing.gateway.demo.offers import EXAMPLES as EXAMPLES
from billing.gateway.demo.order import Declined, Order
from billing.gateway.demo.reading import read
from billing.gateway.demo.tasks.rerunning import RERUN, RUN_AGAIN
from billing.gateway.demo.turns import SUMMARY_MARK as SUMMARY_MARK
from billing.gateway.demo.workbench import Bench, Result, Stopped
from billing.gateway.script import Json, Step

MAX_TURNS = 12
"""How many turns back a follow-up like "again" can refer to."""


def reply(request: Json, *, site: str = "") -> Step:
    """Return the model's reply to a chat-completions request. ``site`` is the public address of this server.

    Raise ``LookupError``, ``TypeError`` or ``AttributeError`` if the request does not have the API's shape.
    """
    messages: list[Json] = request["messages"]
    tools = script.get_tools(request)
    if not tools:
        return Step(text=turns.reply_without_tools(messages))
    found = turns.find_turns(messages)
    turn = found[-1]
    if any(script.DIRECTIVE.search(text) for text in turn.texts):
        return script.choose_step(request)
    order = _understand(found[-MAX_TURNS:])
    if RUN_AGAIN.fullmatch("".join(turn.texts).strip()) and (
        path := turns.find_written_program(messages)
    ):
        order = Order(RERUN, {"path": path}, reading=read("".join(turn.texts)))
    index = script.find_next_index(turn.replies)
    if isinstance(order, Declined):
        text = "\n".join(turn.texts)
        is_chinese = turns.is_chinese(text)
        return Step(
            index=index,
            text=offers.decline(
                site,
                order.reason,
                is_chinese=is_chinese,
                is_first=turn.is_first,
                nearest=order.nearest,
            ),
        )
    if not order.task.uses_tools:
        return Step(index=index, text=talk.answer(order, site, is_first=turn.is_first))
    return _work(order, turn, index=index, tools=tools, site=site)


def _understand(found: list[turns.Turn]) -> Order | Declined:
    """Return the order of the newest turn, or why it is declined."""
    before: Order | None = None
    offered: Order | None = None
    order: Order | Declined = Declined()
    for turn in found:
        text = "\n".join(turn.texts)
        if script.DIRECTIVE.search(text):
            before = offered = None
            continue
        if offered and turns.accepts(text):
            order, before, offered = offered, offered, None
            continue
        offered = None
        try:
            order = UNDERSTANDING.understand(text, before=before, has_images=turn.has_images)
        except Declined as declined:
            order, offered = declined, declined.plain
        else:
            if order.task.uses_tools:
                before = order
    return order


def _work(order: Order, turn: turns.Turn, *, index: int, tools: dict[str, Json], site: str) -> Step:
    """Return the reply number ``index`` of a turn, from 0."""
    opening = (
        (
            f"{offers.ABOUT.chinese}\n\n"
            if order.reading.is_chinese
            else f"{offers.ABOUT.english}\n\n"
        )
        if turn.is_first
        else ""
    )
    bench = Bench(tools=tools, is_chinese=order.reading.is_chinese, opening=opening)
    link = offers.link_model(site)
    ending = bench.say(link.english, link.chinese)
    if not {"terminal", "file_editor"} <= tools.keys():
        missing = bench.say(
            "I need the terminal and file_editor tools, which this agent does not have.",
            "我需要 terminal 和 file_editor 工具，而这个智能体没有。",
        )
        return _finish(index, tools, f"{missing} {ending}")
    last = turn.results.get(index - 1, "")
    if last.startswith("Action rejected"):
        reason = last.partition(":")[2].strip()
        rejected = bench.say(
            f"You rejected the step ({reason}), so I stop here. Nothing more was done.",
            f"你拒绝了这一步（{reason}），所以我停在这里，没有继续做。",
        )
        return _finish(index, tools, f"{rejected} {ending}")
    steps = order.task.carry_out(order, bench)
    try:
        step = next(steps)
        for position in range(index):
            if position not in turn.results:
                lost = bench.say(
                    (
                        "The results of my earlier steps are no longer in this conversation, so I stop "
                        "here. Ask me again, please."
                    ),
                    "我前面步骤的结果已经不在这个对话里了，所以我停在这里。请再问我一次。",
                )
                return _finish(index, tools, lost)
            step = steps.send(Result(turn.results[position]))
    except StopIteration as end:
        return _finish(index, tools, f"{end.value}\n\n{ending}")
    except Stopped as stopped:
        return _finish(index, tools, f"{stopped}\n\n{ending}")
    step.index = index
    return script.fill_step(step, tools=tools, cwd="{cwd}")  # keep a literal {cwd} in the arguments


def _finish(index: int, tools: dict[str, Json], message: str) -> Step:
    if "finish" not in tools:
        return Step(index=index, text=message)
    step = Step(index=index, calls=[("finish", {"message": message})], summary="Finish")
    return script.fill_step(step, tools=tools, cwd="{cwd}")
