"""The search for model servers on this machine: recognition by answers, hostile answers, and time."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from billing.gateway import local_servers, server_kinds
from billing.gateway.server_kinds import FoundModel
from tests.fakes.ollama import FakeOllama

EMBEDS = "It only computes embeddings."
LLAMA_CPP = {
    "/v1/models": {
        "models": [{"name": "qwen3.gguf", "capabilities": ["completion"]}],
        "object": "list",
        "data": [
            {
                "id": "qwen3.gguf",
                "object": "model",
                "created": 1764500000,
                "owned_by": "llamacpp",
                "meta": {"vocab_type": 2, "n_ctx_train": 40960, "size": 4_280_404_992},
            }
        ],
    },
    # llama.cpp imitates this route of Ollama.
    "/api/tags": {"models": [{"name": "qwen3.gguf"}]},
    "/props": {"default_generation_settings": {"n_ctx": 8192}, "total_slots": 1},
}
VLLM = {
    "/v1/models": {
        "object": "list",
        "data": [
            {
                "id": "Qwen/Qwen3-Coder-30B-A3B-Instruct",
                "object": "model",
                "created": 1764500000,
                "owned_by": "vllm",
                "root": "Qwen/Qwen3-Coder-30B-A3B-Instruct",
                "parent": None,
                "max_model_len": 65536,
                "permission": [],
            }
        ],
    },
    "/version": {"version": "0.11.0"},
}
LM_STUDIO = {
    "/v1/models": {
        "data": [
            {"id": "qwen/qwen3-9b", "object": "model", "owned_by": "organization_owner"},
            {"id": "text-embedding-nomic", "object": "model", "owned_by": "organization_owner"},
        ],
        "object": "list",
    },
    "/api/v0/models": {
        "object": "list",
        "data": [
            {
                "id": "qwen/qwen3-9b",
                "object": "model",
                "type": "llm",
                "publisher": "qwen",
                "arch": "qwen3",
                "compatibility_type": "gguf",
                "quantization": "Q4_K_M",
                "state": "loaded",
                "max_context_length": 131072,
                "loaded_context_length": 4096,
            },
            {
                "id": "text-embedding-nomic",
                "object": "model",
                "type": "embeddings",
                "state": "not-loaded",
                "max_context_length": 2048,
            },
        ],
    },
}
LITELLM = {
    "/v1/models": {
        "data": [{"id": "gpt-4o", "object": "model", "created": 1677610602, "owned_by": "openai"}],
        "object": "list",
    }
}


@pytest.fixture
def usual_time():
    """Mark a test that waits until the time of a search ends."""


@pytest.fixture(autouse=True)
def patient(request, monkeypatch):
    """More time for a search on a loaded machine, except in the tests of the time itself."""
    if "usual_time" not in request.fixturenames:
        monkeypatch.setattr(local_servers, "TOTAL_SECONDS", 10)


@contextmanager
def serve(answer, *, host="127.0.0.1"):
    """Serve ``answer(handler)`` for every GET request; yield the port and the list of requests."""
    requests: list[tuple[str, str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append((self.command, self.path, dict(self.headers)))
            answer(self)

        do_POST = do_HEAD = do_GET  # noqa: N815 - the base class names them so

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, *_):
            pass

    server = Server((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler, body, *, status=200, kind="application/json", **headers):
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def send_paths(paths):
    def answer(handler):
        found = handler.path in paths
        body = json.dumps(paths.get(handler.path, {"error": "not found"})).encode()
        send(handler, body, status=200 if found else 404)

    return answer


@pytest.mark.parametrize(
    ("answers", "name", "models"),
    [
        (
            LLAMA_CPP,
            "llama.cpp",
            (FoundModel("qwen3.gguf", size=4_280_404_992, context=8192),),
        ),
        (VLLM, "vLLM 0.11.0", (FoundModel("Qwen/Qwen3-Coder-30B-A3B-Instruct", context=65536),)),
        (
            LM_STUDIO,
            "LM Studio",
            (
                FoundModel("qwen/qwen3-9b", context=4096),
                FoundModel("text-embedding-nomic", unfit=EMBEDS),
            ),
        ),
        (LITELLM, "OpenAI-compatible server", (FoundModel("gpt-4o"),)),
    ],
    ids=["llama.cpp", "vLLM", "LM Studio", "LiteLLM"],
)
def test_server_is_recognized_by_its_answers_at_any_port(answers, name, models):
    with serve(send_paths(answers)) as (port, requests):
        (found,) = local_servers.search([port])

    assert (found.name, found.models) == (name, models)
    assert found.base_url == f"http://127.0.0.1:{port}/v1"
    assert {method for method, _, _ in requests} == {"GET"}
    sent = {header.lower() for _, _, headers in requests for header in headers}
    assert not sent & {"authorization", "cookie", "x-api-key"}


def test_ollama_is_recognized_and_embedding_models_are_marked():
    with FakeOllama() as ollama:
        (found,) = local_servers.search([ollama.port])

    assert found.name == "Ollama 0.12.6"
    assert found.models == (
        FoundModel("qwen3-coder:30b", "30.5B", 18_556_700_761),
        FoundModel("nomic-embed-text:latest", "137M", 274_302_450, unfit=EMBEDS),
    )
    assert found.models[0].facts == "30.5B parameters · 18.6 GB"


def test_model_that_ollama_runs_elsewhere_is_marked():
    remote = {"remote_model": "gpt-oss:120b", "remote_host": "https://ollama.com:443", "size": 384}
    with FakeOllama() as ollama:
        ollama.library = [ollama.library[0] | remote | {"name": "gpt-oss:120b-cloud"}]
        ((model,),) = [found.models for found in local_servers.search([ollama.port])]

    assert model.facts == "30.5B parameters · runs at ollama.com, not on this machine"


@pytest.mark.parametrize(
    ("name", "unfit"),
    [
        ("text-embedding-3-small", EMBEDS),
        ("mxbai-embed-large:latest", EMBEDS),
        ("BAAI/bge-reranker-v2", "It only ranks texts."),
        ("qwen3-coder:30b", ""),
        ("embedded-c-coder", ""),
    ],
)
def test_name_tells_what_other_answers_do_not(name, unfit):
    assert server_kinds._judge_name(name) == unfit


def test_ollama_without_models_is_found():
    with FakeOllama() as ollama:
        ollama.library = []
        (found,) = local_servers.search([ollama.port])

    assert (found.kind, found.models) == ("Ollama", ())


def test_ollama_says_which_models_call_no_tools():
    with FakeOllama() as ollama:
        for row, can in zip(ollama.library, [["completion", "tools"], ["embedding"]], strict=True):
            row["capabilities"] = can
        ollama.library.append(ollama.library[0] | {"name": "old", "capabilities": ["completion"]})
        (found,) = local_servers.search([ollama.port])

    assert [model.unfit for model in found.models] == [
        "",
        EMBEDS,
        "It cannot call tools, which agents need.",
    ]


def test_server_at_both_loopback_addresses_is_listed_once():
    found = server_kinds.FoundServer("Ollama", "127.0.0.1", 1)
    twin = server_kinds.FoundServer("Ollama", "::1", 1)

    assert local_servers._without_twins([found, twin]) == [found]
    assert twin.base_url == "http://[::1]:1/v1"


def test_server_that_listens_only_at_the_ipv6_address_is_found():
    try:
        with serve(send_paths(VLLM), host="::1") as (port, _):
            (found,) = local_servers.search([port])
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")

    assert found.address == f"[::1]:{port}"


def drip(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.05)


HOSTILE = {
    "html": lambda h: send(h, b"<h1>Hi</h1>", kind="text/html"),
    "not JSON": lambda h: send(h, b"{"),
    "no UTF-8": lambda h: send(h, b'{"data": "\xff\xfe"}'),
    "deep JSON": lambda h: send(h, b"[" * 100_000),
    "other JSON": lambda h: send(h, b'{"object": "list", "data": [{"price": 1}]}'),
    "empty list": lambda h: send(h, b'{"object": "list", "data": []}'),
    "wrong types": lambda h: send(h, b'{"data": [1, null, {"id": {"a": 1}, "object": []}]}'),
    "control characters": lambda h: send(h, b'{"data": [{"id": "a\\u0000\\ud800"}]}'),
    "array": lambda h: send(h, b'["a"]'),
    "key needed": lambda h: send(h, b'{"error": "no key"}', status=401),
    "redirect": lambda h: send(h, b"", status=302, Location="http://127.0.0.1:1/v1/models"),
    "too large": lambda h: send(h, b'{"data": [' + b" " * 2_000_000 + b"]}"),
    "no HTTP": lambda h: h.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n" * 50),
    "closed": lambda h: None,
    "silent": lambda h: time.sleep(3),
    "slow": drip,
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_other_program_is_not_reported_and_breaks_nothing(answer, usual_time):
    with serve(answer) as (port, requests):
        began = time.monotonic()
        found = local_servers.search([port])
        seconds = time.monotonic() - began

    assert found == []
    assert requests
    assert seconds < 2


def test_server_whose_details_do_not_arrive_in_time_is_found_without_them(usual_time):
    def answer(handler):
        if handler.path == "/v1/models":
            send_paths(VLLM)(handler)
        else:
            time.sleep(3)

    with serve(answer) as (port, _):
        (found,) = local_servers.search([port])

    assert found.name == "vLLM"
    assert found.models


@pytest.mark.parametrize(
    ("given", "public_url", "ports"),
    [
        ("", "https://agents.example", [11434, 8000]),
        ("", "http://127.0.0.1:8000", [11434]),
        ("0.0.0.0:11500", "http://127.0.0.1:8000", [11500, 11434]),
        ("http://127.0.0.1:11500/", "http://127.0.0.1:8000", [11500, 11434]),
        ("0.0.0.0", "http://127.0.0.1:8000", [11434]),
    ],
)
def test_own_port_is_left_out_and_the_port_of_ollama_host_is_added(
    settings, monkeypatch, given, public_url, ports
):
    settings.MODEL_SERVER_PORTS = [11434, 8000]
    settings.PUBLIC_URL = settings.GATEWAY_URL = public_url
    monkeypatch.setenv("OLLAMA_HOST", given)

    assert local_servers.list_ports() == ports


def test_no_ports_means_no_requests(settings, monkeypatch):
    settings.MODEL_SERVER_PORTS = []
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:11434")

    assert local_servers.list_ports() == []
    assert local_servers.find_servers() == []


def test_result_is_used_again_until_somebody_looks_again_after_a_pause(settings, monkeypatch):
    with FakeOllama() as ollama:
        settings.MODEL_SERVER_PORTS = [ollama.port]
        assert local_servers.recent_servers() is None
        first = local_servers.find_servers()
        number = len(ollama.paths)

        assert local_servers.find_servers() == local_servers.recent_servers() == first
        assert local_servers.find_servers(again=True) == first
        assert len(ollama.paths) == number

        monkeypatch.setattr(local_servers, "PAUSE_SECONDS", 0)
        local_servers.find_servers(again=True)
        assert len(ollama.paths) == 2 * number
