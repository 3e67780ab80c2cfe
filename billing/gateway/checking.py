"""The test of a model server with short real calls that have the shape of a conversation's calls."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync

from billing.gateway import answers, conversion, listing, local_servers, upstream
from billing.gateway.refusals import UpstreamRefused
from billing.gateway.usage_reports import UsageReport
from billing.models import ModelAccess
from lib.problems import Problem
from lib.threads import DatabaseThreads

Json = dict[str, Any]
threads = DatabaseThreads("checking", 4)
CHECK_SECONDS = 60.0
"""The maximum duration of one call of the test."""
TOOL = "report_result"
_UNSUPPORTED = frozenset((400, 404, 405, 406, 415, 422, 500, 501, 502))
"""Statuses of servers that do not support a part of a request."""


class NoModelAccess(Problem):
    """There is no model server to test because conversations use the demo model."""

    status = 409
    code = "no-model-access"
    sentence = (
        "No model server is set. Conversations use the built-in demo model, which needs no test."
    )


class ModelCheckFailed(Problem):
    """The model server failed a test call; ``detail`` describes the failure and what will not work."""

    status = 502
    code = "model-check-failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a successful test: a sentence about the answer, and warnings about what may not work."""

    sentence: str
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The sentence and the warnings as one text."""
        return " ".join((self.sentence, *self.warnings))


def check_model_access(access: ModelAccess | None) -> CheckResult:
    """Send the requests that conversations send, with a short prompt; return the result. The calls can cost money.

    The first request has the form of an agent's: streamed, with a tool and the engine's parameters. The second has the
    form of a summary of a long history: not streamed, without tools. Raise ``NoModelAccess`` if ``access`` is None, and
    ``ModelCheckFailed`` if a call fails. Its ``detail`` names the URL and the reason, and ``extra["field"]`` the
    setting that is most likely wrong: ``base_url``, ``model`` or ``api_key``.
    """
    if access is None:
        raise NoModelAccess
    result = async_to_sync(_check)(access)
    # The server has loaded the model for the test, so it knows the context now.
    if warning := local_servers.warn_of_short_context(access.base_url, access.model):
        return CheckResult(result.sentence, (*result.warnings, warning))
    return result


async def _check(access: ModelAccess) -> CheckResult:
    started = time.monotonic()
    try:
        answer = await _call(access, is_stream=True, has_tools=True)
    except UpstreamRefused as failure:
        if part := await _find_unsupported(access, failure):
            raise ModelCheckFailed(
                f"The model server answers simple requests, but conversations will fail. {part} "
                f"Its message: {failure.message}"
            ) from failure
        # It asks for the list of models, and for a server on this machine the database.
        raise await threads.run(_explain, access, failure) from failure
    milliseconds = round((time.monotonic() - started) * 1000)
    try:
        await _call(access, is_stream=False, has_tools=False)
    except UpstreamRefused as failure:
        raise ModelCheckFailed(
            "The model answered a streamed request, but not a request without streaming. Summaries of long "
            f"conversations will fail: {failure.message}"
        ) from failure
    return CheckResult(
        f"{access.model} answered in {milliseconds} ms.", tuple(_find_warnings(answer))
    )


def _explain(access: ModelAccess, error: UpstreamRefused) -> ModelCheckFailed:
    """Return the failure of a test call with its URL, its reason and what to change."""
    message = error.message
    url = f"{access.base_url.rstrip('/')}/chat/completions"
    if error.code in upstream.UNREACHED_CODES:
        reason = listing.explain(error.__cause__ or error)
        detail = f"The test call to {url} failed: {reason}. {message}"
        return ModelCheckFailed(detail, field="base_url")
    end = "" if message.endswith((".", "!", "?")) else "."
    detail = f"The test call to {url} failed: {message}{end}"
    if error.status in {401, 403}:
        return ModelCheckFailed(detail, field="api_key")
    if better := listing.suggest_base_url(access):
        detail += f" The server has its API at {better}. Enter this URL."
        return ModelCheckFailed(detail, field="base_url")
    found = listing.list_models(access)
    if found.names and access.model not in found.names:
        return ModelCheckFailed(f"{detail} {found.describe()}", field="model")
    return ModelCheckFailed(detail)


async def _find_unsupported(access: ModelAccess, failure: UpstreamRefused) -> str:
    """Return which part of a failed agent's request the server does not support, or "" if simpler requests fail too."""
    if failure.status not in _UNSUPPORTED or failure.code in upstream.UNREACHED_CODES:
        return ""
    if await _works(access, is_stream=True, has_tools=False):
        return "It does not support tools, which agents need."
    if await _works(access, is_stream=False, has_tools=True):
        return "It does not support streaming, which conversations use."
    if await _works(access, is_stream=False, has_tools=False):
        return "It supports neither streaming nor tools, which conversations need."
    return ""


async def _works(access: ModelAccess, *, is_stream: bool, has_tools: bool) -> bool:
    try:
        await _call(access, is_stream=is_stream, has_tools=has_tools)
    except UpstreamRefused:
        return False
    return True


async def _call(access: ModelAccess, *, is_stream: bool, has_tools: bool) -> Json:
    """Return the completion that answers a short request. Raise ``UpstreamRefused`` if the call fails."""
    body = build_request(access.model, is_stream=is_stream, has_tools=has_tools)
    try:
        async with (
            asyncio.timeout(CHECK_SECONDS),
            upstream.open_response(access, body) as response,
        ):
            if is_stream:
                chunks = answers.read_stream(
                    response.pieces, content_type=response.content_type, key=response.key
                )
                bodies = [chunk.body async for chunk in chunks if chunk.body is not None]
                return conversion.join_chunks(bodies)
            return await answers.read_completion(
                response.pieces, content_type=response.content_type, key=response.key
            )
    except TimeoutError as error:
        raise UpstreamRefused(
            504,
            f"The model server did not finish its answer within {CHECK_SECONDS:.0f} seconds.",
            code="upstream_timeout",
        ) from error


def build_request(model: str, *, is_stream: bool, has_tools: bool) -> Json:
    """Return a request as the engine (openhands-agent-server 1.58.2) sends it, with a short prompt."""
    task = f"Call the tool {TOOL} with the result OK." if has_tools else "Reply with the word OK."
    body: Json = {
        "model": model,
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "You are an agent."}]},
            {"role": "user", "content": [{"type": "text", "text": task}]},
        ],
        "reasoning_effort": "high",
    }
    if is_stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if has_tools:
        result = {"type": "string", "description": "The result."}
        parameters = {"type": "object", "properties": {"result": result}, "required": ["result"]}
        function = {
            "name": TOOL,
            "description": "Report the result of the task.",
            "parameters": parameters,
        }
        body["tools"] = [{"type": "function", "function": function}]
    return body


def _find_warnings(answer: Json) -> list[str]:
    warnings = []
    if not any(
        isinstance(choice.get("message"), dict) and choice["message"].get("tool_calls")
        for choice in answer["choices"]
    ):
        warnings.append(
            "However, it did not call the tool that it was asked to call. Agents work only with models that call tools."
        )
    report = UsageReport()
    report.read(answer)
    if not report.is_present:
        warnings.append("It reports no token usage, so tokens and costs are estimated.")
    return warnings
