"""The files of a sandbox's own ``/etc``. They name no user, host or address of this machine."""

from pathlib import Path

from conversations.sandboxes.bubblewrap.pasta_launcher import NAME_SERVERS

UID, GID, USER = 1000, 1000, "agent"
"""The user of all processes inside. Outside, it is another user without privileges."""


def write_etc(folder: Path, *, home: str, python: str, relay: str) -> None:
    """Write the files of the sandbox's ``/etc`` into a folder of the host, which the sandbox cannot write to.

    ``python`` is the interpreter that runs the script ``relay``.
    """
    files = {
        "passwd": f"{USER}:x:{UID}:{GID}:Agent:{home}:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "group": f"{USER}:x:{GID}:\nnogroup:x:65534:\n",
        "hostname": "sandbox\n",
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
        "shells": "/bin/sh\n/bin/bash\n",
        "profile": "[ -n \"$BASH\" ] && PS1='\\w\\$ '\n",
        "gitconfig": "[user]\n\tname = Agent\n\temail = agent@localhost\n[init]\n\tdefaultBranch = main\n"
        "[safe]\n\tdirectory = *\n",
    }
    _write(folder, files)
    write_network_files(folder, python=python, relay=relay, is_open=False)


def write_network_files(folder: Path, *, python: str, relay: str, is_open: bool) -> None:
    """Write the files of ``/etc`` that depend on whether the sandbox's network is open.

    The files are changed in place, because a running sandbox has mounted them.
    """
    if is_open:
        servers = "".join(f"nameserver {address}\n" for address in NAME_SERVERS)
        resolver, hosts, proxy = f"{servers}options timeout:2\n", "files dns", ""
    else:
        # Names are resolved by the proxy. A name server would be a way out.
        resolver = "# This sandbox has no name server. Programs reach hosts through the proxy.\n"
        hosts, proxy = "files", f"\tProxyCommand {python} -I -S {relay} connect %h %p\n"
    files = {
        "resolv.conf": resolver,
        "nsswitch.conf": f"passwd: files\ngroup: files\nhosts: {hosts}\nservices: files\nprotocols: files\n",
        "ssh/ssh_config": f"Host *\n{proxy}"
        "\tStrictHostKeyChecking accept-new\n\tGlobalKnownHostsFile /dev/null\n",
    }
    _write(folder, files)


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        # The sandbox may run under another user id, and the server's umask may be strict.
        (folder / name).chmod(0o644)


def proxy_variables(proxy: str) -> dict[str, str]:
    """Return the environment variables by which programs find the sandbox's proxy, given as ``HOST:PORT``."""
    host, _, port = proxy.partition(":")
    url = f"http://{proxy}"
    local = "localhost,127.0.0.1,::1"
    java = " ".join(
        f"-D{scheme}.proxyHost={host} -D{scheme}.proxyPort={port}" for scheme in ("http", "https")
    )
    return {
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), url),
        **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), url),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), local),
        "NODE_USE_ENV_PROXY": "1",  # `fetch` of Node 22.21, 24 and newer
        "JAVA_TOOL_OPTIONS": f"{java} -Dhttp.nonProxyHosts=localhost|127.*|[::1]",
        "CARGO_HTTP_PROXY": url,
        "CARGO_NET_GIT_FETCH_WITH_CLI": "true",
    }
