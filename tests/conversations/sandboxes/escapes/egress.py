"""The network profile of a sandbox, tried by its agent: one allowed host, tricks with names, and real tools.

It runs in a world as the server's user: ``python -m ….egress FOLDER``.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.conversations.sandboxes.escapes import world
from tests.conversations.sandboxes.escapes.server import Box, set_up

S = "escape-secret-internet"
GET = "curl -sS -m 20 -w '\\nstatus %{http_code}\\n'"
LISTED = (
    "allowed.test",
    "changing.test",
    "six.test",
    *(f"{n}.test" for n in ("git", "pip", "npm", "crates", "maven")),
)

RULES: list[tuple[str, str, bool]] = [
    ("an allowed host by HTTP", f"{GET} http://allowed.test/", True),
    ("an allowed host by HTTPS", f"{GET} https://allowed.test/", True),
    ("an allowed host in capitals, with a dot at the end", f"{GET} http://ALLOWED.test./", True),
    ("an allowed host that has an IPv6 address only", f"{GET} http://six.test/", True),
    ("an allowed host by SOCKS", f"{GET} -x socks5h://127.0.0.1:3128 http://allowed.test/", True),
    ("another host", f"{GET} http://refused.test/", False),
    ("another host by HTTPS", f"{GET} https://refused.test/", False),
    ("another host by SOCKS", f"{GET} -x socks5h://127.0.0.1:3128 http://refused.test/", False),
    ("the address of the allowed host instead of its name", f"{GET} http://8.7.7.1/", False),
    ("that address, directly without the proxy", f"{GET} --noproxy '*' http://8.7.7.1/", False),
    (
        "that address, by a name that the agent chose (`--resolve`)",
        f"{GET} --noproxy '*' --resolve allowed.test:80:8.7.7.1 http://allowed.test/",
        False,
    ),
    ("an IPv6 address", f"{GET} -g 'http://[2606:4700:aaaa::1]/'", False),
    ("an IPv6 address, directly", f"{GET} -g --noproxy '*' 'http://[2606:4700:aaaa::1]/'", False),
    ("a name that ends like the allowed one", f"{GET} http://notallowed.test/", False),
    ("a name that begins like the allowed one", f"{GET} http://allowed.test.refused.test/", False),
    (
        "the allowed name as a user name (`allowed.test@refused.test`)",
        f"{GET} http://allowed.test@refused.test/",
        False,
    ),
    (
        "another host in the header `Host` of a request for the allowed one",
        f"{GET} -H 'Host: refused.test' http://allowed.test/ -o /dev/null -w '%{{remote_ip}} %{{http_code}}' ; echo; grep -c refused.test /proc/net/tcp",
        False,
    ),
    (
        "a redirect of the allowed host to another one",
        f"{GET} -L http://allowed.test/to/refused.test",
        False,
    ),
    (
        "a redirect of the allowed host to 169.254.169.254",
        f"{GET} -L http://allowed.test/to/169.254.169.254",
        False,
    ),
    (
        "a redirect of the allowed host to the host's loopback interface",
        f"{GET} -L http://allowed.test/to/127.0.0.1:{world.HOST_PORT}",
        False,
    ),
    (
        "a name by the system's resolver",
        "getent hosts allowed.test && echo escape-secret-internet",
        False,
    ),
    (
        "a name server by UDP",
        "python3 -c \"import socket; s=socket.socket(2,2); s.settimeout(2); s.sendto(b'?',('8.7.7.1',53)); print(s.recv(10))\"",
        False,
    ),
    (
        "a tunnel to a port of the allowed host that nobody listens on",
        f"{GET} https://allowed.test:4444/",
        False,
    ),
]
CA = "/workspace/../CA"


def tools(public: Path, root: Path) -> list[tuple[str, str]]:
    """Return the tools and the commands that print the secret or ``works``."""
    ca = public / "ca.pem"
    cargo = root / ".cargo/bin/cargo"
    settings = "<settings><proxies><proxy><id>p</id><active>true</active><protocol>https</protocol><host>127.0.0.1</host><port>3128</port></proxy></proxies></settings>"
    pom = (
        "<project><modelVersion>4.0.0</modelVersion><parent><groupId>test</groupId><artifactId>hello-parent</artifactId><version>1.0</version><relativePath/></parent>"
        "<artifactId>a</artifactId><packaging>pom</packaging><repositories><repository><id>central</id><url>https://maven.test/maven2</url></repository></repositories></project>"
    )
    maven = f"mkdir -p mvn && cd mvn && rm -rf repo && echo '{pom}' > pom.xml && MAVEN_OPTS='-Djavax.net.ssl.trustStore={public}/trust.p12 -Djavax.net.ssl.trustStorePassword=escape' mvn -q -B -Dmaven.repo.local=repo"
    java = 'public class A { public static void main(String[] a) throws Exception { System.out.println(new String(new java.net.URL("https://allowed.test/").openStream().readAllBytes())); } }'
    client = 'public class B { public static void main(String[] a) throws Exception { System.out.println(java.net.http.HttpClient.newHttpClient().send(java.net.http.HttpRequest.newBuilder(java.net.URI.create("https://allowed.test/")).build(), java.net.http.HttpResponse.BodyHandlers.ofString()).body()); } }'
    trust = (
        f"-Djavax.net.ssl.trustStore={public}/trust.p12 -Djavax.net.ssl.trustStorePassword=escape"
    )
    ssh = f"cp {public}/id key && chmod 600 key"
    return [
        ("curl, HTTP", "curl -sS http://allowed.test/"),
        ("curl, HTTPS", "curl -sS https://allowed.test/"),
        ("wget, HTTPS", f"wget -q -O - --ca-certificate={ca} https://allowed.test/"),
        (
            "Python `urllib`, HTTPS",
            "python3 -c \"import urllib.request as u; print(u.urlopen('https://allowed.test/').read())\"",
        ),
        (
            "git clone, HTTPS",
            "rm -rf c1; git clone -q https://git.test/repo.git c1 && cat c1/README",
        ),
        (
            "git clone, ssh (`git@host:path`)",
            f"{ssh}; rm -rf c2; GIT_SSH_COMMAND='ssh -i key -o BatchMode=yes' git clone -q git@git.test:repo.git c2 && cat c2/README",
        ),
        (
            "ssh to a host that is not listed",
            f"{ssh}; ssh -i key -o BatchMode=yes git@refused.test true",
        ),
        (
            "git, `git://` protocol",
            "rm -rf c3; timeout 10 git clone -q git://git.test/repo.git c3 && cat c3/README",
        ),
        (
            "pip install",
            f"python3 -m venv --without-pip v; python3 -m pip --version >/dev/null 2>&1 && P='python3 -m pip' || P='pip'; $P install -q --target t --no-deps --index-url https://pip.test/simple/ --cert {ca} hello-escape && ls t && echo works",
        ),
        (
            "npm install",
            f"mkdir -p n && cd n && npm install --fetch-retries 0 --loglevel error --cafile {ca} --no-audit --no-fund --registry https://npm.test/ hello-escape && cat node_modules/hello-escape/index.js && echo works",
        ),
        (
            "cargo fetch (sparse registry)",
            f'export CARGO_HOME=$PWD/ch RUSTUP_HOME={root}/.rustup PATH={root}/.cargo/bin:$PATH; mkdir -p cr/src ch && cd cr && printf \'[package]\\nname="a"\\nversion="0.1.0"\\nedition="2021"\\n[dependencies]\\nhello-crate={{version="1",registry="t"}}\\n\' > Cargo.toml && echo > src/lib.rs && printf \'[registries.t]\\nindex="sparse+https://crates.test/index/"\\n[http]\\ncainfo="{ca}"\\n\' > ../ch/config.toml && {cargo} fetch -q && ls $CARGO_HOME/registry/src/*/ && echo works',
        ),
        ("Maven (parent POM), as it is", f"{maven} validate && echo works"),
        (
            "Maven, with the proxy in `settings.xml`",
            f"mkdir -p mvn; echo '{settings}' > mvn/s.xml; {maven} -s s.xml validate && echo works",
        ),
        (
            "Maven, with its native transport (`-Dmaven.wagon…`/system properties)",
            f"{maven} -Djava.net.useSystemProxies=true validate && echo works",
        ),
        ("Java `URL`, HTTPS", f"echo '{java}' > A.java && java {trust} A.java"),
        ("Java `HttpClient`, HTTPS", f"echo '{client}' > B.java && java {trust} B.java"),
        (
            "Node `fetch`",
            "node -e \"fetch('https://allowed.test/').then(r=>r.text()).then(console.log,e=>console.log(e.cause||e))\"",
        ),
        (
            "Node `https.get`",
            "node -e \"require('https').get('https://allowed.test/',r=>r.pipe(process.stdout)).on('error',console.log)\"",
        ),
        (
            "UDP (for example QUIC, DNS)",
            "python3 -c \"import socket; s=socket.socket(2,2); s.settimeout(2); s.sendto(b'?',('8.7.7.1',53)); print(s.recv(10))\"",
        ),
        ("ping (ICMP)", "ping -c1 -W2 8.7.7.1"),
    ]


def main(folder_name: str, *chosen: str) -> None:
    folder = Path(folder_name)
    public = folder.parent / "public"
    root = Path("/root")
    os.environ["SANDBOX_READ_ONLY_PATHS"] = f"{public},{root}/.cargo,{root}/.rustup"
    set_up(folder)
    (folder / "data").mkdir()
    from conversations.sandboxes.egress.policy import Policy, Profile

    gateway = f"http://127.0.0.1:{world.GATEWAY_PORT}"
    variables = ("CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")
    trust = "export " + " ".join(f"{name}={public}/ca.pem" for name in variables) + "; "
    box = Box("bubblewrap", Policy(Profile.LIST, hosts=LISTED, gateway=gateway))
    result: dict[str, Any] = {"rules": [], "tools": [], "moving": []}

    def ask(command: str, timeout: int = 60) -> str:
        return box.run(trust + command, timeout).strip()

    def note(table: str, title: str, output: str, *, expected: bool | None, works: bool) -> None:
        result[table].append(
            {"title": title, "works": works, "expected": expected, "output": output[-500:]}
        )
        print(
            f"{table:7}{'works' if works else 'refused':9}{'' if expected in (None, works) else 'UNEXPECTED '}{title}: {output[-150:]!r}",
            file=sys.stderr,
            flush=True,
        )

    def try_rule(table: str, title: str, command: str, expected: bool) -> None:
        output = ask(command)
        note(
            table, title, output, expected=expected, works=S in output or "escape-secret" in output
        )

    for title, command, expected in RULES if not chosen else []:
        try_rule("rules", title, command, expected)
    try_rule(
        "rules",
        "the gateway `openhands.internal`",
        f"{GET} http://openhands.internal/ | sed 's/the gateway/{S}/'",
        True,
    )

    # A name that changes its address: the server's resolver reads /etc/hosts for every connection.
    hosts = Path("/etc/hosts").read_text()
    moves = [
        (world.INTERNET[2], True),
        (world.PRIVATE, False),
        ("169.254.169.254", False),
        ("127.0.0.1", False),
        (world.PUBLIC, False),
        ("::ffff:10.99.0.1", False),
        (world.INTERNET[2], True),
    ]
    for address, expected in moves if not chosen else moves[:1]:
        lines = [line for line in hosts.splitlines() if "changing.test" not in line]
        rewrite([*lines, f"{address} changing.test"])
        try_rule(
            "moving",
            f"the allowed name now leads to {address}",
            f"{GET} http://changing.test/ ; {GET} http://changing.test:{world.HOST_PORT}/",
            expected,
        )
    rewrite([*lines, f"{world.INTERNET[2]} changing.test", f"{world.PRIVATE} changing.test"])
    try_rule(
        "moving",
        "the allowed name has two addresses, one of them private",
        f"{GET} http://changing.test/",
        False,
    )
    rewrite(hosts.splitlines())

    for title, command in tools(public, root):
        if chosen and not any(word in title for word in chosen):
            continue
        began = time.monotonic()
        output = ask(f"({command}) 2>&1", 100)
        works = S in output or output.endswith("works")
        note("tools", title, output, expected=None, works=works)
        result["tools"][-1]["seconds"] = round(time.monotonic() - began, 1)

    box.provider.set_policy(box.handle, Policy(Profile.LIST, hosts=("git.test",), gateway=gateway))
    try_rule(
        "moving",
        "the allowed host, after the policy was changed",
        f"{GET} http://allowed.test/",
        False,
    )
    box.provider.set_policy(box.handle, Policy(Profile.NONE, gateway=gateway))
    try_rule("moving", "any host with the profile *none*", f"{GET} http://git.test/", False)
    try_rule(
        "moving",
        "the gateway with the profile *none*",
        f"{GET} http://openhands.internal/ | sed 's/the gateway/{S}/'",
        True,
    )
    box.provider.set_policy(box.handle, Policy(Profile.PUBLIC, gateway=gateway))
    try_rule(
        "moving",
        "a host that is not listed with the profile *public*",
        f"{GET} http://refused.test/",
        True,
    )
    try_rule(
        "moving",
        "an IPv6 address with the profile *public*",
        f"{GET} -g 'http://[2606:4700:aaaa::1]/'",
        True,
    )
    time.sleep(1.5)
    decisions, _ = box.provider.read_decisions(box.handle, "")
    result["log"] = decisions
    result["uid"] = os.geteuid()
    box.destroy()
    (folder / "result.json").write_text(json.dumps(result))


def rewrite(lines: list[str]) -> None:
    """Change /etc/hosts in place, because it is a mount point."""
    Path("/etc/hosts").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
