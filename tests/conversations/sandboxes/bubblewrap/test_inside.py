"""The modules that run inside a sandbox: Landlock and the flag against dumps, in real sandboxes."""

import json
import shutil
from pathlib import Path

import pytest

from conversations.sandboxes.bubblewrap import inside, support
from conversations.sandboxes.bubblewrap.inside import landlock
from tests.conversations.sandboxes.bubblewrap.inside import PYTHON, run_inside, share

pytestmark = [
    pytest.mark.skipif(not support.probe().is_usable, reason=support.probe().cause),
]
needs_landlock = pytest.mark.skipif(not landlock.find_abi(), reason="the kernel has no Landlock")
READ_ONLY = ["/usr", "/etc", "/inside", "/missing"]
WRITABLE = ["/work", "/tmp", "/dev", "/proc"]
RESTRICTED = """
import json, os, sys
sys.path.insert(0, "/inside")
import landlock
print(landlock.restrict(*json.loads(sys.argv[1])), flush=True)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def modules(reachable):
    """Return bubblewrap's options for the modules beneath /inside and folders beneath /work and /other."""
    # Only a copy is readable by the user of the sandbox, wherever the repository is.
    for name in ("inside", "work/a", "work/b", "other"):
        (reachable / name).mkdir(parents=True)
    (reachable / "other" / "file").write_text("secret")
    for module in Path(inside.__file__).parent.glob("*.py"):
        shutil.copy(module, reachable / "inside")
    share(reachable)
    return (
        *("--ro-bind", str(reachable / "inside"), "/inside"),
        *("--bind", str(reachable / "work"), "/work", "--bind", str(reachable / "other"), "/other"),
    )


def run_restricted(modules, script, *, listable=(), **options):
    """Run a shell script under the restriction; return its output after the line with the ABI."""
    paths = json.dumps([READ_ONLY, WRITABLE, list(listable)])
    done = run_inside(
        *(PYTHON, "-I", "-S", "-c", RESTRICTED, paths, "/bin/bash", "-c", script),
        options=modules,
        **options,
    )
    abi, _, output = done.stdout.partition("\n")
    assert abi == str(landlock.find_abi()), done.stderr
    return output.strip(), done.stderr.strip(), done.returncode


@needs_landlock
@pytest.mark.parametrize(
    "attempt",
    [
        "cat /other/file",
        "ls /other",
        "ls /",
        "echo 1 >/other/file",
        "rm /other/file",
        "mv /other/file /work/",
        "ln /other/file /work/x",
        "mkdir /other/x",
        "truncate -s 0 /other/file",
        "cp /bin/true /work/true; mv /work/true /other/",
        "echo 1 >/usr/x",
        "touch /inside/landlock.py && echo >>/inside/landlock.py",
    ],
)
def test_mounted_but_unlisted_folder_is_refused(modules, reachable, attempt):
    _, error, code = run_restricted(modules, attempt)

    assert code != 0
    assert any(words in error for words in ("Permission denied", "Read-only", "cross-device")), (
        error
    )
    assert (reachable / "other" / "file").read_text() == "secret"
    assert [path.name for path in (reachable / "other").iterdir()] == ["file"]


def test_same_attempts_work_without_the_restriction(modules):
    done = run_inside(
        "/bin/bash",
        "-c",
        "cat /other/file && ls / && mkdir /other/x && mv /other/file /work/a/",
        options=modules,
    )

    assert done.returncode == 0, done.stderr


@needs_landlock
def test_listable_paths_show_names_but_no_contents(modules):
    output, error, code = run_restricted(modules, "ls /other; cat /other/file", listable=["/"])

    assert (output, code) == ("file", 1)
    assert "Permission denied" in error


def test_files_move_and_link_between_writable_folders(modules):
    script = (
        "echo 1 >a/f && mv a/f b/g && ln b/g a/h && cat a/h && mkdir a/d && mv a/d b/ && rmdir b/d"
        " && mkfifo a/p && ln -s h a/s && truncate -s 0 a/h && rm a/* && echo done"
    )

    assert run_restricted(modules, script) == ("1\ndone", "", 0)


USUAL_WORK = {
    "git": "git init -q r && cd r && git config user.email a@example.org && git config user.name A"
    " && echo 1 >f && git add f && git commit -qm 1 && git checkout -qb x && git gc -q && echo works",
    "python": f"{PYTHON} -c 'import tempfile, pty, multiprocessing; tempfile.TemporaryFile();"
    ' multiprocessing.Lock(); pty.spawn(["echo", "works"])\'',
    "tmux": "tmux -S /tmp/t new-session -d 'tty >/tmp/tty; stty size >/tmp/size; echo works >/tmp/out'"
    " && for i in $(seq 50); do [ -s /tmp/out ] && break; sleep 0.1; done;"
    " grep -q pts /tmp/tty && [ -s /tmp/size ] && cat /tmp/out",
    "ioctl": "script -qc 'stty rows 40 && stty size' /dev/null | tr -d '\\r' | grep -q '^40' && echo works",
    "devices": "echo 1 >/dev/null && head -c 1 /dev/urandom >/dev/null && (echo works >/dev/stderr) 2>&1 | cat",
    "proc": "echo 500 >/proc/self/oom_score_adj && echo works",
}


@pytest.mark.parametrize("name", USUAL_WORK)
def test_usual_work_succeeds(modules, name):
    output, error, code = run_restricted(modules, USUAL_WORK[name])

    assert (output, code) == ("works", 0), error


@needs_landlock
@pytest.mark.skipif(landlock.find_abi() < 6, reason="scopes need Landlock's ABI 6")
def test_scope_ends_at_the_restriction(modules):
    """A restricted process can signal its own children, but not an unrestricted process of the same user."""
    script = f"""
        sleep 60 & outer=$!
        {PYTHON} -I -S - $outer <<'X'
import os, signal, socket, sys
sys.path.insert(0, "/inside")
server = socket.socket(socket.AF_UNIX); server.bind("\\0before"); server.listen()
import landlock
landlock.restrict(["/usr"], ["/dev"])
child = os.fork()
if not child:
    signal.pause()
os.kill(child, signal.SIGKILL)
print(os.waitpid(child, 0)[1])
try:
    os.kill(int(sys.argv[1]), signal.SIGKILL)
except PermissionError:
    print("refused")
inner = socket.socket(socket.AF_UNIX); inner.bind("\\0after"); inner.listen()
socket.socket(socket.AF_UNIX).connect("\\0after")
try:
    socket.socket(socket.AF_UNIX).connect("\\0before")
except PermissionError:
    print("refused")
X
        kill $outer
    """

    done = run_inside("/bin/bash", "-c", script, options=modules)

    assert done.stdout.split() == ["9", "refused", "refused"], done.stderr


def test_no_new_privs_is_set(modules):
    output, _, _ = run_restricted(modules, "grep NoNewPrivs /proc/self/status")

    assert output.split() == ["NoNewPrivs:", "1"]


def test_kernel_without_landlock_returns_zero(modules, monkeypatch):
    def refuse(*_arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(landlock, "_call", refuse)

    assert landlock.find_abi() == 0


TARGET = """
import os, subprocess, sys
sys.path.insert(0, "/inside")
if {}:
    import nondumpable
script = '''
for file in environ maps auxv; do head -c 1 /proc/$1/$file >/dev/null 2>&1; echo $?; done
ls /proc/$1/fd /proc/$1/cwd/ >/dev/null 2>&1; echo $?
exec 2>/dev/null; python3 -c "
import ctypes, sys
libc = ctypes.CDLL(None)
attached = libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0
print(int(not attached))" $1
cat /proc/self/environ | tr '\\\\0' '\\n' | grep -c PWD
'''
print(subprocess.run(["bash", "-c", script, "x", str(os.getpid())], stdout=subprocess.PIPE, text=True).stdout)
"""


@pytest.mark.parametrize("is_protected", [True, False])
def test_other_processes_cannot_read_a_nondumpable_process(modules, is_protected):
    done = run_inside(
        *(PYTHON, "-I", "-S", "-c", TARGET.format(is_protected)),
        options=(*modules, "--setenv", "KEY", "secret"),
    )

    environ, maps, auxv, descriptors, attach, child = map(int, done.stdout.split())
    assert child == 1
    refusals = {environ != 0, maps != 0, auxv != 0, descriptors != 0, attach != 0}
    assert refusals == {is_protected}, done.stderr
