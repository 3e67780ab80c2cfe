"""The isolation of bubblewrap's sandboxes in words, from the support of this machine and the settings."""

from conversations.sandboxes.bubblewrap.support import Support
from conversations.sandboxes.provider import Isolation, Limits, Wall

MEGABYTE = 1_000_000
ISOLATED = (
    "The agent works in a sandbox of its own. It sees only the files of this conversation and a read-only system, "
    "and it reaches the network only through this server’s proxy."
)
OPEN = (
    "The agent works in a sandbox of its own. It sees only the files of this conversation and a read-only system. Its "
    "network profile opens the full network, private networks included."
)
UNAVAILABLE = "This server cannot isolate agents, so agents cannot start."


def describe_isolation(
    machine: Support,
    *,
    limits: Limits,
    landlock_abi: int,
    has_own_uid: bool,
    has_cgroup: bool = False,
    has_open_network: bool = False,
) -> Isolation:
    """Return the isolation of sandboxes on this machine.

    ``landlock_abi`` is 0 without Landlock. ``has_own_uid`` says whether each sandbox has a system user id of its own,
    ``has_cgroup`` whether a cgroup enforces the limits, and ``has_open_network`` whether its profile is ``open``.
    """
    if not machine.is_usable:
        return Isolation(
            "Not available",
            UNAVAILABLE,
            is_isolated=False,
            limits=limits,
            cause=machine.cause,
            remedy=machine.remedy,
        )
    walls = (
        *_describe_walls(landlock_abi, has_own_uid=has_own_uid, has_open_network=has_open_network),
        *_describe_limits(limits, has_cgroup=has_cgroup),
    )
    meaning = OPEN if has_open_network else ISOLATED
    return Isolation("Isolated", meaning, is_isolated=True, walls=walls, limits=limits)


def _describe_walls(
    landlock_abi: int, *, has_own_uid: bool, has_open_network: bool
) -> tuple[Wall, ...]:
    return (
        Wall(
            "Files",
            True,
            "The system and the engine are read-only. Only the sandbox’s own folders and its private /tmp can be "
            "written, and nothing else of this machine exists inside (mount namespace).",
        ),
        Wall(
            "Processes",
            True,
            "No process outside of the sandbox is visible or can be signalled (user, PID, IPC, UTS and cgroup "
            "namespaces).",
        ),
        Wall(
            "Network",
            not has_open_network,
            "The network profile opens the full network. This machine’s loopback stays out of reach."
            if has_open_network
            else "The sandbox has a network of its own (network namespace). The only way out is this server’s proxy, "
            "which allows hosts by the network profile.",
        ),
        Wall(
            "Privileges",
            True,
            "Programs have no capabilities and cannot gain any (no_new_privs).",
        ),
        Wall(
            "System call filter",
            True,
            "Mounts, kernel modules, kernel keys, new namespaces and similar system calls are refused (seccomp).",
        ),
        Wall(
            "Landlock",
            landlock_abi > 0,
            f"A second wall around files (Landlock ABI {landlock_abi})."
            if landlock_abi
            else "This kernel has no Landlock, so the mount namespace is the only wall around files.",
        ),
        Wall(
            "Own user id",
            has_own_uid,
            "Each sandbox has a system user id of its own."
            if has_own_uid
            else "The server does not run as root, so all sandboxes have its user id. The other walls separate them.",
        ),
    )


def _describe_limits(limits: Limits, *, has_cgroup: bool) -> tuple[Wall, ...]:
    cgroup = "A cgroup enforces it too." if has_cgroup else "No cgroup is used."
    return (
        Wall(
            "Memory limit",
            limits.memory_bytes > 0,
            f"{limits.memory_bytes // MEGABYTE:,} MB. A watcher measures the sandbox about once a second and stops "
            f"it above the limit. {cgroup}"
            if limits.memory_bytes
            else "No limit is set (SANDBOX_MEMORY_MEGABYTES is 0). If the machine runs short of memory, a large "
            "sandbox is stopped.",
        ),
        Wall(
            "Process limit",
            limits.processes > 0,
            f"{limits.processes:,} processes and threads. The kernel refuses more."
            if limits.processes
            else "No limit is set (SANDBOX_MAX_PROCESSES is 0).",
        ),
        Wall(
            "Disk limit",
            limits.disk_bytes > 0,
            f"{limits.disk_bytes // MEGABYTE:,} MB. A watcher counts the sandbox’s files and stops it above the "
            "limit. The kernel refuses a single file that is larger."
            if limits.disk_bytes
            else "No limit is set (SANDBOX_DISK_MEGABYTES is 0). If the disk is almost full, a large sandbox is "
            "stopped.",
        ),
    )
