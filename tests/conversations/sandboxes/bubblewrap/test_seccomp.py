"""The filter in a real sandbox: refused calls fail, and usual programs work."""

import errno
import json
import platform
import shutil
import textwrap

import pytest

from conversations.sandboxes.bubblewrap import seccomp, support
from tests.conversations.sandboxes.bubblewrap.inside import PYTHON, run_inside

COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
pytestmark = pytest.mark.skipif(not support.probe().is_usable, reason=support.probe().cause)
CALL = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
results = []
for number, *arguments in json.loads(sys.argv[1]):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments))
    results.append(ctypes.get_errno() if result < 0 else 0)
print(json.dumps(results))
"""


def call_inside(*calls, **options):
    """Make system calls (name, arguments...) in a sandbox; return their error codes, 0 for success."""
    numbers = [(seccomp.NUMBERS[name][COLUMN], *arguments) for name, *arguments in calls]
    done = run_inside(PYTHON, "-c", CALL, json.dumps(numbers), **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def existing(names):
    return [name for name in names if seccomp.NUMBERS[name][COLUMN] is not None]


def test_refused_calls_fail_with_eperm():
    # With zeros as arguments, none of these calls does harm where the filter does not work.
    names = existing(seccomp.REFUSED)

    codes = call_inside(*[(name, 0, 0, 0, 0, 0, 0) for name in names])

    assert dict(zip(names, codes, strict=True)) == dict.fromkeys(names, errno.EPERM)


def test_some_refused_calls_work_without_the_filter():
    names = [
        "kcmp",
        "add_key",
        "clock_adjtime",
        "move_pages",
        "name_to_handle_at",
        "process_madvise",
    ]

    codes = call_inside(*[(name, 0, 0, 0, 0, 0, 0) for name in names], is_filtered=False)

    assert errno.EPERM not in codes


def test_calls_that_are_not_implemented_fail_with_enosys():
    names = [*seccomp.NOT_IMPLEMENTED, "clone3"]

    codes = call_inside(*[(name, 0, 0, 0, 0, 0, 0) for name in names])

    assert dict(zip(names, codes, strict=True)) == dict.fromkeys(names, errno.ENOSYS)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (("socket", 40, 1, 0), errno.EAFNOSUPPORT),
        (("socket", 0x1_0000_0028, 1, 0), errno.EAFNOSUPPORT),
        (("socket", 38, 5, 0), errno.EAFNOSUPPORT),
        (("socket", 17, 3, 0), errno.EAFNOSUPPORT),
        (("socket", 16, 3, 15), errno.EAFNOSUPPORT),
        (("socket", 16, 3, 0), 0),
        (("socket", 1, 1, 0), 0),
        (("socket", 2, 1, 0), 0),
        (("socket", 10, 2, 0), 0),
        (("socketpair", 40, 1, 0, 0), errno.EAFNOSUPPORT),
        (("ioctl", 0, 0x5412, 0), errno.EPERM),
        (("ioctl", 0, 0x1_0000_5412, 0), errno.EPERM),
        (("ioctl", 0, 0x541C, 0), errno.EPERM),
        (("ioctl", 0, 0x5401, 0), errno.ENOTTY),
        (("personality", 0x400000), errno.EPERM),
        (("personality", 0x40000), 0),
        (("personality", 0xFFFFFFFF), 0),
        (("shmget", 0, 56, 0o1600), 0),
        (("shmget", 0, 1 << 20, 0o1600), errno.EINVAL),
        (("unshare", 0x10000000), errno.EPERM),
        (("unshare", 0x20000), errno.EPERM),
        (("unshare", 0x80), errno.EPERM),
        (("unshare", 0x400), 0),
        (("clone", 0x10000000 | 17, 0, 0, 0, 0), errno.EPERM),
        (("clone", 0xFFFFFFFF_00020011, 0, 0, 0, 0), errno.EPERM),
    ],
)
def test_arguments_decide(call, code):
    assert call_inside(call) == [code]


def test_user_namespaces_can_be_allowed():
    options = {"namespaces": ("--unshare-all", "--unshare-user"), "allow_user_namespaces": True}

    done = run_inside(
        "/usr/bin/unshare", "--user", "--map-root-user", "--net", "id", "-u", **options
    )
    assert (done.stdout, done.stderr) == ("0\n", "")

    done = run_inside("/usr/bin/unshare", "--user", "--map-root-user", "--mount", "true", **options)
    assert "Operation not permitted" in done.stderr  # unshare makes all mounts private.


@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is an instruction of x86")
def test_call_of_foreign_architecture_kills_the_process():
    # mov eax, 20 (getpid of i386); int 0x80; ret
    done = run_inside(
        PYTHON,
        "-c",
        "import ctypes, mmap\n"
        "code = mmap.mmap(-1, 4096, prot=7)\n"
        "code.write(bytes.fromhex('b814000000cd80c3'))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(code))\n"
        "print('called', flush=True)\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())\n",
    )

    assert done.stdout == "called\n"
    assert done.returncode == 128 + 31  # SIGSYS


PROGRAMS = {
    "git": "git init -q x && cd x && git config user.email a@example.org && git config user.name A && echo 1 >f"
    " && git add f && git commit -qm one && git gc -q && git log --oneline | grep -c one",
    "bash": "for i in 1 2; do (sleep 0.01) & done; wait; cat <(echo ok) | grep -c ok",
    "tmux": "tmux -S /tmp/t new-session -d 'echo 1 >/tmp/out' && for i in $(seq 50); do"
    " [ -s /tmp/out ] && break; sleep 0.1; done; cat /tmp/out",
    "node": """node -e 'const {execSync}=require("child_process"), {Worker}=require("worker_threads");
        const w=new Worker("require(`worker_threads`).parentPort.postMessage(1)",{eval:true});
        w.on("message",m=>{console.log(m*Number(execSync("echo 1")))})'""",
    "java": "cd /tmp && mkdir j && printf 'public class A{public static void main(String[] a)throws Exception{"
    "Thread t=new Thread(()->System.out.println(1));t.start();t.join();}}' >A.java"
    " && (java A.java 2>/dev/null || (java -version 2>&1 | grep -ci version))",
    "curl": "curl --version | grep -c ^curl",
    "gcc": "echo 'int main(){return 0;}' >/tmp/a.c && gcc -o /tmp/a /tmp/a.c && /tmp/a && echo 1",
    "gdb": "echo 'int main(){return 3;}' >/tmp/a.c && gcc -g -o /tmp/a /tmp/a.c"
    " && gdb -batch -ex run /tmp/a 2>&1 | grep -c 'exited with code 03'",
    "strace": "strace -f -e trace=execve -o /tmp/s sh -c true && grep -c '^[0-9]* *exec' /tmp/s",
    "ssh-keygen": "ssh-keygen -q -t ed25519 -N '' -f /tmp/k && ssh-keygen -lf /tmp/k.pub | grep -c ED25519",
    "perl": "perl -e 'my $p=fork; if(!$p){exit 3} wait; print $?>>8 == 3 ? 1 : 0'",
    "make": "printf 'all: a b\\na:\\n\\t@true\\nb:\\n\\t@echo 1\\n' >/tmp/Makefile && make -s -j4 -C /tmp",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_works(program):
    if shutil.which(program) is None or not shutil.which(program).startswith("/usr/bin/"):
        pytest.skip(f"{program} is not installed")

    done = run_inside("/bin/bash", "-c", PROGRAMS[program], options=("--tmpfs", "/work"))

    assert (done.stdout.strip(), done.returncode) == ("1", 0), done.stderr


def test_python_works_with_processes_threads_and_sockets():
    code = """
        import asyncio, multiprocessing, queue, socket, subprocess, tempfile, threading
        import concurrent.futures, mmap, select, sqlite3
        results = [subprocess.check_output(["echo", "1"]).strip() == b"1"]
        threads = queue.Queue()
        threading.Thread(target=threads.put, args=(True,)).start()
        results.append(threads.get())
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        client.sendall(b"x")
        results.append(server.accept()[0].recv(1) == b"x")
        left, right = socket.socketpair()
        results.append(left.send(b"y") == 1)
        results.append(bool(socket.if_nameindex()))
        results.append(bool(socket.getaddrinfo("localhost", 80)))
        with multiprocessing.Pool(2) as pool:
            results.append(pool.map(abs, [-1]) == [1])
        async def run():
            process = await asyncio.create_subprocess_exec("true")
            return await process.wait() == 0
        results.append(asyncio.run(run()))
        with tempfile.TemporaryFile() as file:
            file.write(b"1" * 4096)
            file.flush()
            results.append(len(mmap.mmap(file.fileno(), 0)) == 4096)
        results.append(sqlite3.connect("/tmp/db").execute("select 1").fetchone() == (1,))
        print(results)
        """

    done = run_inside(PYTHON, "-c", textwrap.dedent(code))

    assert done.stdout.strip() == str([True] * 10), done.stderr


def test_filter_holds_without_the_namespace_limit():
    """The filter alone refuses nested namespaces, also where ``--disable-userns`` is missing."""
    namespaces = ("--unshare-all", "--unshare-user")
    command = ("/usr/bin/unshare", "--user", "true")

    assert run_inside(*command, namespaces=namespaces, is_filtered=False).returncode == 0
    done = run_inside(*command, namespaces=namespaces)
    assert "Operation not permitted" in done.stderr
