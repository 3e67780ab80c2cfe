"""Child processes that are forks: what they inherit, what they let go of, and how they end."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux only")
BEGIN = """
import json, os, signal, sys, threading, time
sys.path.insert(0, {root!r})
from setproctitle import getproctitle
from openhands_site.operating import forking

getproctitle()

def fork(run, **options):
    return forking.fork(run, **{{"title": "a title", "environment": {{}}}} | options)

def finish(child):
    output = child.stdout.read().decode()
    return child.wait(), output
"""


def run_script(body: str, **environment: str):
    """Run a script in a process with one thread, unlike pytest's; return what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN.format(root=str(ROOT)) + textwrap.dedent(body)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_child_has_a_title_and_only_its_own_environment():
    seen = run_script(
        """
        def report():
            data = {n: open(f"/proc/self/{n}").read() for n in ("cmdline", "environ", "comm")}
            print(json.dumps(data | {"own": dict(os.environ)}))

        _, output = finish(fork(report, environment={"OH_ROLE": "web"}))
        print(output)
        """,
        OH_ADMIN_PASSWORD="of the parent",
    )

    assert seen["cmdline"].rstrip("\0") == "a title"
    assert seen["comm"].startswith("python")
    assert "of the parent" not in seen["environ"]
    assert seen["own"] == {"OH_ROLE": "web"}


def test_child_lets_go_of_the_parents_files_except_those_to_keep(tmp_path):
    seen = run_script(
        f"""
        import fcntl
        lock = open({str(tmp_path / "lock")!r}, "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = open({str(tmp_path / "kept")!r}, "w+")

        def report():
            lock.close()  # as the garbage collector may do
            names = [os.readlink(f"/proc/self/fd/{{n}}") for n in os.listdir("/proc/self/fd")
                     if os.path.exists(f"/proc/self/fd/{{n}}")]
            print(json.dumps(names), flush=True)
            time.sleep(30)

        child = fork(report, keep=[kept.fileno()])
        names = json.loads(child.stdout.readline())
        lock.close()
        with open({str(tmp_path / "lock")!r}) as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if the child still holds the lock
        child.kill()
        print(json.dumps([names, child.wait()]))
        """
    )

    names, status = seen
    assert str(tmp_path / "kept") in names
    assert str(tmp_path / "lock") not in names
    assert status == -signal.SIGKILL


def test_child_has_default_signal_handlers_and_a_session_of_its_own():
    seen = run_script(
        """
        signal.signal(signal.SIGTERM, lambda *_: print("the parent's handler", flush=True))

        def wait():
            print(os.getsid(0) == os.getpid(), flush=True)
            time.sleep(30)

        child = fork(wait)
        leads = child.stdout.readline().decode().strip()
        child.terminate()
        status, rest = finish(child)
        print(json.dumps([leads, status, rest, child.poll()]))
        """
    )

    assert seen == ["True", -signal.SIGTERM, "", -signal.SIGTERM]


def test_exit_status_and_errors_reach_the_parent():
    seen = run_script(
        """
        def fail():
            raise ValueError("a cause")

        def leave():
            sys.exit(3)

        def refuse():
            sys.exit("a sentence")

        print(json.dumps([finish(fork(run)) for run in (fail, leave, refuse, lambda: None)]))
        """
    )

    assert seen[0][0] == 1
    assert seen[0][1].endswith("ValueError: a cause\n")
    assert seen[1:] == [[3, ""], [1, "a sentence\n"], [0, ""]]


def test_child_collects_garbage_although_its_parent_does_not():
    seen = run_script(
        """
        import gc

        gc.disable()
        print(finish(fork(lambda: print(json.dumps(gc.isenabled()))))[1])
        """
    )

    assert seen is True


def test_garbage_of_the_parent_is_collected_before_it_is_frozen():
    seen = run_script(
        """
        import weakref

        class Node:
            pass

        gone = Node()
        gone.itself = gone
        reference = weakref.ref(gone)
        del gone
        finish(fork(lambda: None))
        print(json.dumps(reference() is None))
        """
    )

    assert seen is True


def test_random_numbers_of_two_children_differ():
    seen = run_script(
        """
        import random, secrets, uuid
        from uuid_utils.compat import uuid4, uuid7
        for make in (random.random, uuid4, uuid7):
            make()  # each generator has a state now

        def report():
            print(json.dumps([random.random(), uuid.uuid4().hex, uuid4().hex, uuid7().hex[16:]]))

        print(json.dumps([json.loads(finish(fork(report))[1]) for _ in range(2)]))
        """
    )

    assert all(one != other for one, other in zip(*seen, strict=True))


def test_process_with_a_second_thread_may_not_fork():
    seen = run_script(
        """
        before = forking.can_fork()
        ended = threading.Thread(target=time.sleep, args=(0.05,))
        ended.start()
        soon = forking.can_fork()
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        print(json.dumps([before, soon, forking.can_fork()]), flush=True)
        os._exit(0)
        """
    )

    assert seen == [True, True, False]
