"""The turns of a conversation, from the messages of a request: what the user asked, and what the tools returned."""

import json
import re
from dataclasses import dataclass

from billing.gateway import script
from billing.gateway.demo.reading import read
from billing.gateway.demo.workbench import MATERIAL
from billing.gateway.script import Json

SUMMARY_MARK = "[Summary by the demo model]"
# The engine sends this text as a user message after a reply without a tool call.
_REMINDER = "Your last response did not include a function call"
# The engine adds such parts to the messages of users, with rules of skills.
_ADDED = re.compile(
    r"\s*<(?:EXTRA_INFO|RUNTIME_INFORMATION|CURRENT_DATETIME|REPOSITORY_INSTRUCTIONS)>"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A request of the user with the messages that follow it. ``results`` are the tools' by the index of the step."""

    texts: list[str]
    has_images: bool
    replies: list[Json]
    results: dict[int, str]
    is_first: bool


def find_turns(messages: list[Json]) -> list[Turn]:
    """Return the turns, at least one. Summaries and the engine's reminders are not requests.

    Requests that no reply separates are one turn, because the model answers them together.
    """
    starts = [
        p
        for p, message in enumerate(messages)
        if message["role"] == "user" and _is_request(message)
    ]
    groups: list[list[int]] = []
    for position in starts:
        has_reply = groups and any(
            m["role"] == "assistant" for m in messages[groups[-1][-1] : position]
        )
        if groups and not has_reply:
            groups[-1].append(position)
        else:
            groups.append([position])
    turns = []
    for number, group in enumerate(groups or [[0]]):
        end = groups[number + 1][0] if number + 1 < len(groups) else len(messages)
        requests = [messages[position] for position in group] if groups else []
        following = messages[group[-1] : end]
        turns.append(
            Turn(
                texts=[
                    t
                    for message in requests
                    for t in script.extract_texts(message)
                    if not _ADDED.match(t)
                ],
                has_images=any(_has_image(message) for message in requests),
                replies=[message for message in following if message["role"] == "assistant"],
                results=_collect_results(following),
                is_first=not any(m["role"] == "assistant" for m in messages[: group[0]]),
            )
        )
    return turns


def find_written_program(messages: list[Json]) -> str | None:
    """Return the path of the newest program in Python or shell that the demo model wrote in this conversation."""
    results = {
        message.get("tool_call_id"): "\n".join(script.extract_texts(message)).lstrip()
        for message in messages
        if message["role"] == "tool"
    }
    for message in reversed(messages):
        for call in reversed(message.get("tool_calls") or []):
            if call["function"]["name"] != "file_editor":
                continue
            path = str(json.loads(call["function"]["arguments"]).get("path", ""))
            was_written = results.get(call["id"], "").startswith("File created successfully")
            is_helper = (MATERIAL / path.rpartition("/")[2]).exists()
            if was_written and path.endswith((".py", ".sh")) and not is_helper:
                return path
    return None


def is_chinese(text: str) -> bool:
    """Return whether a text is to be answered in Chinese."""
    chinese = len(re.findall(r"[\u4e00-\u9fff]", text[:5_000]))
    return chinese > 0 and chinese * 3 >= len(re.findall(r"[A-Za-z]{2,}", text[:5_000]))


def reply_without_tools(messages: list[Json]) -> str:
    """Return the reply to a request without tools, by which engines request titles and summaries."""
    prompt = "\n".join(text for message in messages for text in script.extract_texts(message))
    if "title" in prompt[:2_000].lower():
        return "🤖 Demo conversation"
    if "summar" in prompt[:2_000].lower():
        return f"{SUMMARY_MARK} Earlier steps were carried out; their files are in the working directory."
    return "I am the built-in demo model. I know a few small tasks and nothing else."


def _is_request(message: Json) -> bool:
    text = "\n".join(script.extract_texts(message)).lstrip()
    return not text.startswith((SUMMARY_MARK, _REMINDER))


def _has_image(message: Json) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(
        part.get("type") in {"image_url", "image", "input_image"} for part in content
    )


def _collect_results(messages: list[Json]) -> dict[int, str]:
    results: dict[int, str] = {}
    for message in messages:
        match = re.match(r"call_(\d{1,9})_", message.get("tool_call_id") or "")
        if message["role"] == "tool" and match:
            results[int(match[1])] = "\n".join(script.extract_texts(message))
    return results


_YES = re.compile(
    r"(?:(?:yes|yeah|yep|yup|y|ok|okay|sure|fine|alright|please|do it|do that|do so|go ahead|go on|just do "
    r"it|that's fine|"
    r"that is fine|without it|without that|please do|the plain one|that works|sounds good)[ ,.!]*)+|"
    r"(?:好的?|可以|行|是的?|对|要|嗯|做吧|没问题|好吧|行吧|好啊|来吧|不要也可以|那就做吧)[。，！!. ]*"
)


def accepts(request: str) -> bool:
    """Return whether a request accepts the plain task that was offered ("yes")."""
    return bool(_YES.fullmatch(read(request).text))
