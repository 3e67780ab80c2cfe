"""The real engine with its keys in a file that is deleted, and other processes that try to get them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conversations.sandboxes.bubblewrap import inside, support
from tests import prepare
from tests.conversations.sandboxes.bubblewrap.inside import run_inside

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(200),
    pytest.mark.skipif(not support.probe().is_usable, reason=support.probe().cause),
]
ATTEMPTS = {
    "engine's files": "for pid in 1 $ENGINE; do for file in environ maps mem auxv; do"
    " cat /proc/$pid/$file >/dev/null 2>&1 && echo read $pid $file; done;"
    " readlink /proc/$pid/fd/* /proc/$pid/fd/1 /proc/$pid/cwd; done; true",
    "trace": 'python3 -c "import ctypes; print(ctypes.CDLL(None).ptrace(0x4206, $ENGINE, 0, 0))"',
    "memory": 'python3 -c "import ctypes; l = ctypes.CDLL(None); b = ctypes.create_string_buffer(8);'
    " v = (ctypes.c_size_t * 2)(ctypes.addressof(b), 8);"
    ' print(l.process_vm_readv($ENGINE, v, 1, v, 1, 0))"',
    "own environment": "env | grep -c THE-KEY",
    "file": "cat /work/engine.json 2>&1 | grep -c THE-KEY",
    "git": "mkdir g && cd g && git init -q && printf '#!/bin/sh\\nenv >/work/seen\\nexit 1\\n' >/work/m"
    " && chmod +x /work/m && git config core.fsmonitor /work/m && echo 1 >f",
    "environment of git": "wc -l </work/seen | grep -cv '^0$'; grep -c THE-KEY /work/seen",
}
INSIDE = """
import json, os, subprocess, sys, time
sys.path.insert(0, "/inside")
import landlock, nondumpable
import http.client
engine, attempts = sys.argv[1], json.loads(sys.argv[2])
keys = {"session_api_keys": ["THE-KEY-1"], "secret_key": "THE-KEY-2" + "s" * 32}
with open("/work/engine.json", "w") as file:
    json.dump(keys, file)
landlock.restrict(["/usr", "/etc", "/inside", *sys.argv[3:]], ["/work", "/tmp", "/dev", "/proc"])
variables = {
    "OPENHANDS_AGENT_SERVER_CONFIG_PATH": "/work/engine.json",
    "OH_CONVERSATIONS_PATH": "/work/c", "OH_BASH_EVENTS_DIR": "/work/b", "OH_WORKSPACE_PATH": "/work",
    "OH_ENABLE_VSCODE": "0", "TMUX_TMPDIR": "/tmp", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LOG_JSON": "1", "OPENHANDS_SUPPRESS_BANNER": "1", "ANONYMIZED_TELEMETRY": "false",
}
command = [engine, "-m", "openhands.agent_server", "--host", "127.0.0.1", "--port", "18080",
           "--extra-python-path", "/inside", "--import-modules", "nondumpable,keyless"]
process = subprocess.Popen(command, env=os.environ | variables, stdout=sys.stderr)

def call(method, path, body=None, key="THE-KEY-1"):
    connection = http.client.HTTPConnection("127.0.0.1", 18080, timeout=60)
    headers = {"X-Session-API-Key": key, "Content-Type": "application/json"}
    connection.request(method, path, body and json.dumps(body), headers)
    response = connection.getresponse()
    return response.status, response.read()

while process.poll() is None:
    try:
        if call("GET", "/ready")[0] == 200:
            break
    except OSError:
        time.sleep(0.1)
os.unlink("/work/engine.json")
results = {
    "with key": call("GET", "/api/conversations/count")[0],
    "with wrong key": call("GET", "/api/conversations/count", key="x")[0],
}
for name, script in attempts.items():
    script = script.replace("$ENGINE", str(process.pid))
    body = {"command": script, "cwd": "/work", "timeout": 60}
    output = json.loads(call("POST", "/api/bash/execute_bash_command", body)[1])
    results[name] = (output.get("stdout") or "").split()
    if name == "git":
        results["changes"] = json.loads(call("GET", "/api/git/changes?path=/work/g")[1])
print(json.dumps(results))
process.terminate()
process.wait()
"""


def test_keys_of_the_engine_are_out_of_reach(tmp_path):
    interpreter = prepare.engine_dir() / "bin" / "python"
    base = interpreter.resolve().parent.parent
    for module in Path(inside.__file__).parent.glob("*.py"):
        shutil.copy(module, tmp_path)
    folders = (str(prepare.engine_dir()), str(base))

    # The engine may be in a folder that is closed to other users. Without capabilities, root has the same limits here.
    done = run_inside(
        *(str(base / "bin" / "python3"), "-I", "-S", "-c", INSIDE),
        *(str(interpreter), json.dumps(ATTEMPTS), *folders),
        options=(
            *("--tmpfs", "/work", "--ro-bind", str(tmp_path), "/inside"),
            *(part for folder in folders for part in ("--ro-bind", folder, folder)),
        ),
        uid=None,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "with key": 200,
        "with wrong key": 401,
        "engine's files": [],
        "trace": ["-1"],
        "memory": ["-1"],
        "own environment": ["0"],
        "file": ["0"],
        "git": [],
        "changes": [{"path": "f", "status": "ADDED"}],
        "environment of git": ["1", "0"],
    }


@pytest.mark.parametrize("text", [None, '{"session_api_keys": [""]}'])
def test_engine_without_a_key_does_not_start(tmp_path, text):
    file = tmp_path / "engine.json"
    if text is not None:
        file.write_text(text)

    done = subprocess.run(
        [
            *(prepare.engine_dir() / "bin" / "python", "-m", "openhands.agent_server"),
            *("--host", "127.0.0.1", "--port", "0", "--import-modules", "keyless"),
            *("--extra-python-path", Path(inside.__file__).parent),
        ],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "OPENHANDS_AGENT_SERVER_CONFIG_PATH": str(file),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )

    assert done.returncode != 0
    assert "it has no session key and would accept every request" in done.stderr
    assert "Starting OpenHands Agent Server" not in done.stdout
