"""Recognition of model servers by their answers: which program answers, and which models it offers.

A server is recognized by the list of models of its OpenAI-compatible API, and by routes that only its program has:

- llama.cpp, vLLM and SGLang: ``owned_by`` in the list (llama.cpp ``tools/server/README.md``);
- Ollama: ``/api/version``, ``/api/tags`` and ``/api/ps`` (its ``docs/openapi.yaml``);
- LM Studio: ``/api/v0/models`` (its documentation, "REST API v0");
- every other server with such a list, such as LiteLLM, LocalAI, Jan or text-generation-webui.

The answers come from unknown programs, so every value is checked, and nothing raises.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OLLAMA, LM_STUDIO = "Ollama", "LM Studio"
OTHER = "OpenAI-compatible server"
OWNERS = {"llamacpp": "llama.cpp", "vllm": "vLLM", "sglang": "SGLang"}
"""The names of programs by the ``owned_by`` of their models."""
MODELS_PATH = "/v1/models"
DETAIL_PATHS = {
    OLLAMA: ("/api/version", "/api/tags", "/api/ps"),
    LM_STUDIO: ("/api/v0/models",),
    "vLLM": ("/version",),
    "llama.cpp": ("/props",),
}
"""The further routes that tell what the list of models does not."""
MODELS_MAX = 200
EMBEDDING_FAMILIES = frozenset(("bert", "nomic-bert", "nomic-bert-moe", "xlm-roberta"))
"""Ollama's families of models that only compute embeddings."""
_EMBEDDING_NAME = re.compile(r"(?:^|[-_/:.])embed(?:ding|dings)?(?:$|[-_/:.])")
_RANKING_NAME = re.compile(r"(?:^|[-_/:.])rerank(?:er)?(?:$|[-_/:.])")
_VERSION = re.compile(r"v?\d[\w.+-]{0,30}")
Answers = Mapping[str, Any]
"""The parsed JSON of answers, by path. A path without a usable answer is absent."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model of a found server.

    ``parameters`` is the number of parameters as the server writes it, such as "30.5B". ``size`` is in bytes.
    ``context`` is the number of tokens of its context, as loaded now. All three are empty or 0 if the server does not
    tell them. ``remote`` is the host on which the server runs the model if that is another one (Ollama's cloud models).
    ``unfit`` says why agents cannot use the model, and is empty if nothing speaks against it.
    """

    name: str
    parameters: str = ""
    size: int = 0
    context: int = 0
    remote: str = ""
    unfit: str = ""

    @property
    def facts(self) -> str:
        """Parameters, size and context as a text for people, such as "30.5B parameters · 18.6 GB"."""
        parameters = f"{self.parameters} parameters" if self.parameters else ""
        size = f"{self.size / 1e9:.1f} GB" if self.size >= 1e9 else f"{self.size / 1e6:.0f} MB"
        context = f"context of {self.context:,} tokens" if self.context else ""
        place = f"runs at {self.remote}, not on this machine" if self.remote else ""
        size = size if self.size and not self.remote else ""
        return " · ".join(part for part in (parameters, size, context, place) if part)


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A model server that answers at a port of this machine. ``host`` is ``127.0.0.1`` or ``::1``."""

    kind: str
    host: str
    port: int
    version: str = ""
    models: tuple[FoundModel, ...] = ()

    @property
    def name(self) -> str:
        """The program and its version, such as "Ollama 0.12.6"."""
        return f"{self.kind} {self.version}".strip()

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"http://{self.address}/v1"


def recognize_list(answer: Any) -> str | None:
    """Return the kind of a server by its answer to ``/v1/models``, or None if the answer is no list of models.

    For Ollama and LM Studio, whose lists have no mark of their own, the kind is ``OTHER``.
    """
    rows = _rows(answer, "data")
    if rows is None:
        return None
    # Ollama answers `"data": null` while it has no models.
    if any(not _name(row, "id") or row.get("object") not in ("model", None) for row in rows):
        return None
    if not rows and answer.get("object") != "list":
        return None
    owners = (OWNERS.get(str(row.get("owned_by")).lower()) for row in rows)
    return next((owner for owner in owners if owner), OTHER)


def describe_server(kind: str, answers: Answers, *, host: str, port: int) -> FoundServer:
    """Return a recognized server with its models, from its answers to ``MODELS_PATH`` and to ``DETAIL_PATHS``."""
    if kind == OTHER and _version(answers.get("/api/version")) and _is_ollama(answers):
        return FoundServer(
            OLLAMA, host, port, _version(answers["/api/version"]), _ollama_models(answers)
        )
    if kind == OTHER and (models := _lm_studio_models(answers)) is not None:
        return FoundServer(LM_STUDIO, host, port, "", models)
    version = _version(answers.get("/version")) if kind == "vLLM" else ""
    shared = _number(_path(answers.get("/props"), "default_generation_settings", "n_ctx"))
    return FoundServer(kind, host, port, version, _listed_models(answers, shared))


def _is_ollama(answers: Answers) -> bool:
    return _rows(answers.get("/api/tags"), "models") is not None


def _ollama_models(answers: Answers) -> tuple[FoundModel, ...]:
    loaded = {
        _name(row, "name"): _number(row.get("context_length"))
        for row in _rows(answers.get("/api/ps"), "models") or []
    }
    found = []
    for row in _rows(answers.get("/api/tags"), "models") or []:
        name, details = _name(row, "name"), _mapping(row.get("details"))
        capabilities = row.get("capabilities")
        unfit = _judge_capabilities(capabilities) if isinstance(capabilities, list) else ""
        if str(details.get("family")) in EMBEDDING_FAMILIES:
            unfit = _EMBEDS
        found.append(
            FoundModel(
                name,
                _short(details.get("parameter_size")),
                _number(row.get("size")),
                loaded.get(name, 0),
                _host(row.get("remote_host")),
                unfit or _judge_name(name),
            )
        )
    return _distinct(found)


def _lm_studio_models(answers: Answers) -> tuple[FoundModel, ...] | None:
    rows = _rows(answers.get("/api/v0/models"), "data")
    if not rows or any("type" not in row or "state" not in row for row in rows):
        return None
    found = []
    for row in rows:
        name = _name(row, "id")
        unfit = _EMBEDS if row["type"] == "embeddings" else _judge_name(name)
        context = _number(row.get("loaded_context_length"))
        found.append(FoundModel(name, context=context, unfit=unfit))
    return _distinct(found)


def _listed_models(answers: Answers, shared_context: int) -> tuple[FoundModel, ...]:
    found = []
    for row in _rows(answers.get(MODELS_PATH), "data") or []:
        name, meta = _name(row, "id"), _mapping(row.get("meta"))
        context = _number(row.get("max_model_len")) or _number(meta.get("n_ctx")) or shared_context
        found.append(FoundModel(name, "", _number(meta.get("size")), context, _judge_name(name)))
    return _distinct(found)


_EMBEDS = "It only computes embeddings."


def _judge_capabilities(capabilities: list[Any]) -> str:
    if "completion" not in capabilities:
        return _EMBEDS if "embedding" in capabilities else "It cannot chat."
    return "" if "tools" in capabilities else "It cannot call tools, which agents need."


def _judge_name(name: str) -> str:
    if _RANKING_NAME.search(name.lower()):
        return "It only ranks texts."
    return _EMBEDS if _EMBEDDING_NAME.search(name.lower()) else ""


def _distinct(models: list[FoundModel]) -> tuple[FoundModel, ...]:
    return tuple({model.name: model for model in models if model.name}.values())[:MODELS_MAX]


def _rows(answer: Any, name: str) -> list[dict[str, Any]] | None:
    """Return the list of objects with a name in an answer; None if there is no such list."""
    if not isinstance(answer, dict) or name not in answer:
        return None
    rows = answer[name] if answer[name] is not None else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    return rows[:MODELS_MAX]


def _name(row: dict[str, Any], field: str) -> str:
    name = row.get(field)
    is_usable = isinstance(name, str) and name.isprintable() and len(name) <= 200
    return name.strip() if is_usable and isinstance(name, str) else ""


def _version(answer: Any) -> str:
    version = answer.get("version") if isinstance(answer, dict) else None
    return version if isinstance(version, str) and _VERSION.fullmatch(version) else ""


def _short(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() and len(value) <= 20 else ""


def _host(value: Any) -> str:
    match = (
        re.fullmatch(r"(?:https?://)?([\w.-]{1,100})(?::\d+)?/?", value)
        if isinstance(value, str)
        else None
    )
    return match[1] if match else ""


def _number(value: Any) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value < 2**53 else 0


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _path(answer: Any, *names: str) -> Any:
    for name in names:
        answer = _mapping(answer).get(name)
    return answer
