"""A fake GitHub Enterprise Server: REST and GraphQL below ``/api``, and repositories by Git's smart HTTP.

It sends the responses that GitHub documents, checks what GitHub checks (token, version header, user agent, page
sizes), and serves its repositories with the real ``git http-backend``. With ``GITHUB_TEST_TOKEN``,
``tests/integrations/test_github.py`` sends similar requests to github.com.
"""

import base64
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "ghp_theGoodToken0123456789"
READ_ONLY = "ghp_readsButMayNotWrite"
LOGIN = "octo"
GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Octo",
    "GIT_AUTHOR_EMAIL": "octo@example.com",
    "GIT_COMMITTER_NAME": "Octo",
    "GIT_COMMITTER_EMAIL": "octo@example.com",
}


@dataclass
class Repo:
    """A repository. Its bare clone is in the server's folder."""

    full_name: str
    id: int
    private: bool = True
    stars: int = 0
    pulls: list[dict[str, Any]] = field(default_factory=list)
    issues: list[dict[str, Any]] = field(default_factory=list)
    labels: dict[int, list[str]] = field(default_factory=dict)


class FakeGitHub:
    """The state of the server. ``requests`` holds ``(method, path, headers)`` of every request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.trouble: Callable[[str], tuple[int, dict[str, str], Any] | None] = lambda _path: None
        """A function of the path that returns a response to send instead of the normal response, or None."""
        self.is_app_token = False
        self.moved: dict[str, str] = {}
        self.host = self.url = ""

    def add(
        self,
        full_name: str,
        files: dict[str, str] | None = None,
        *,
        branches: tuple[str, ...] = (),
        **more: Any,
    ) -> Repo:
        """Create a repository with one commit on ``main``, and further branches at the same commit."""
        repo = Repo(full_name, id=len(self.repos) + 1000, **more)
        self.repos[full_name] = repo
        bare, work = self.path(full_name), self.folder / "work" / full_name
        work.mkdir(parents=True)
        git("init", "-q", "-b", "main", cwd=work)
        for name, text in ({"README.md": f"# {full_name}\n"} | (files or {})).items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(text)
        git("add", "-A", cwd=work)
        git("commit", "-q", "-m", "First", cwd=work)
        for branch in branches:
            git("branch", branch, cwd=work)
        git("clone", "-q", "--bare", str(work), str(bare), cwd=self.folder)
        git("config", "http.receivepack", "true", cwd=bare)
        return repo

    def path(self, full_name: str) -> Path:
        return self.folder / f"{full_name}.git"

    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.requests]


def git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=cwd,
        env=os.environ | GIT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@contextmanager
def running(folder: Path, *, address: str = "127.0.0.1") -> Iterator[FakeGitHub]:
    """Serve the fake on a port of a loopback address. Its ``host`` is the value to connect a token with.

    An isolated sandbox has a 127.0.0.1 of its own, so a fake for agents needs another address, such as 127.0.0.2.
    """
    fake = FakeGitHub(folder)
    server = ThreadingHTTPServer((address, 0), type("Handler", (_Handler,), {"fake": fake}))
    server.daemon_threads = True
    fake.host = f"{address}:{server.server_address[1]}"
    fake.url = f"http://{fake.host}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Refused(Exception):
    """An error response."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        self.status, self.body = status, {"message": message} | more
        super().__init__(message)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeGitHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, *arguments: Any) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self._body()
        self.fake.requests.append((self.command, self.path, dict(self.headers)))
        if not parts.path.startswith("/api/"):
            self._git(parts.path, parts.query, body)
            return
        if response := self.fake.trouble(parts.path):
            self._answer(*response)
            return
        try:
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self._answer(*self._api(parts.path, query, json.loads(body) if body else {}))
        except Refused as refusal:
            self._answer(refusal.status, {}, refusal.body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, headers: dict[str, str], body: Any) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    # --- The API ---

    def _api(self, path: str, query: dict[str, str], body: Any) -> tuple[int, dict[str, str], Any]:
        if not self.headers.get("User-Agent"):
            raise Refused(403, "Request forbidden by administrative rules.")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_ONLY):
            raise Refused(401, "Bad credentials", documentation_url="https://docs.github.com/rest")
        if path == "/api/graphql":
            return 200, {}, _graphql(self.fake, body)
        if self.headers.get("X-GitHub-Api-Version") not in (None, "2022-11-28"):
            raise Refused(400, "Unsupported API version")
        path = path.removeprefix("/api/v3")
        for pattern, method, handle in _ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                if method == "POST" and token == READ_ONLY:
                    raise Refused(403, "Resource not accessible by personal access token")
                return handle(self, query, body, *map(unquote, match.groups()))
        raise Refused(404, "Not Found")

    def repo(self, full_name: str) -> Repo:
        if full_name not in self.fake.repos:
            raise Refused(404, "Not Found")
        return self.fake.repos[full_name]

    def page(self, query: dict[str, str], rows: list[Any]) -> tuple[int, dict[str, str], Any]:
        page, size = int(query.get("page", 1)), min(int(query.get("per_page", 30)), 100)
        shown, headers = rows[(page - 1) * size : page * size], {}
        if len(rows) > page * size:
            here = f"{self.fake.url}{urlsplit(self.path).path}"
            last = -(-len(rows) // size)
            headers["Link"] = (
                f'<{here}?page={page + 1}&per_page={size}>; rel="next", '
                f'<{here}?page={last}&per_page={size}>; rel="last"'
            )
        return 200, headers, shown

    # --- Git ---

    def _git(self, path: str, query: str, body: bytes) -> None:
        user, _, password = _basic(self.headers.get("Authorization", "")).partition(":")
        repo = self.fake.repos.get("/".join(path.strip("/").split("/")[:2]).removesuffix(".git"))
        if repo is None or (repo.private and (not user or password not in (TOKEN, READ_ONLY))):
            raw = b"Repository not found.\n" if user else b"Authentication required.\n"
            self.send_response(404 if user else 401)
            if not user:
                self.send_header("WWW-Authenticate", 'Basic realm="GitHub"')
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)
            return
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.fake.folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": user,
                "REMOTE_ADDR": "127.0.0.1",
            }
            | GIT,
            capture_output=True,
            check=True,
        )
        head, _, raw = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def _basic(header: str) -> str:
    kind, _, value = header.partition(" ")
    return base64.b64decode(value).decode() if kind == "Basic" else ""


def _repository(fake: FakeGitHub, repo: Repo) -> dict[str, Any]:
    owner = repo.full_name.partition("/")[0]
    return {
        "id": repo.id,
        "name": repo.full_name.partition("/")[2],
        "full_name": repo.full_name,
        "owner": {"login": owner, "type": "User" if owner == LOGIN else "Organization"},
        "private": repo.private,
        "html_url": f"{fake.url}/{repo.full_name}",
        "stargazers_count": repo.stars,
        "pushed_at": "2026-11-20T10:00:00Z",
        "default_branch": "main",
    }


def _user(handler: _Handler, query: Any, body: Any) -> Any:
    return (
        200,
        {"X-OAuth-Scopes": "repo, read:user"},
        {
            "id": 583231,
            "login": LOGIN,
            "avatar_url": f"{handler.fake.url}/avatars/583231",
            "type": "User",
            "name": "Octo Cat",
            "company": None,
            "email": None,
        },
    )


def _orgs(handler: _Handler, query: Any, body: Any) -> Any:
    owners = {name.partition("/")[0] for name in handler.fake.repos} - {LOGIN}
    return handler.page(query, [{"login": owner, "id": 1} for owner in sorted(owners)])


def _installations(handler: _Handler, query: Any, body: Any) -> Any:
    if not handler.fake.is_app_token:
        raise Refused(
            403,
            "You must authenticate with an access token authorized to a GitHub App in order to list installations",
        )
    return 200, {}, {"total_count": 1, "installations": [{"id": 4242, "account": {"login": LOGIN}}]}


def _installed(handler: _Handler, query: Any, body: Any, number: str) -> Any:
    rows = [_repository(handler.fake, repo) for repo in handler.fake.repos.values()]
    status, headers, shown = handler.page(query, rows)
    return status, headers, {"total_count": len(rows), "repositories": shown}


def _repos(handler: _Handler, query: Any, body: Any, owner: str = "") -> Any:
    if query.get("sort", "full_name") not in ("created", "updated", "pushed", "full_name"):
        raise Refused(422, "Validation Failed")
    owner = LOGIN if query.get("affiliation") == "owner" else owner
    rows = [
        _repository(handler.fake, repo)
        for name, repo in handler.fake.repos.items()
        if not owner or name.startswith(f"{owner}/")
    ]
    return handler.page(query, rows)


def _one(handler: _Handler, query: Any, body: Any, name: str) -> Any:
    if target := handler.fake.moved.get(name):
        number = handler.fake.repos[target].id
        place = f"{handler.fake.url}/api/v3/repositories/{number}"
        return 301, {"Location": place}, {"message": "Moved Permanently", "url": place}
    return 200, {}, _repository(handler.fake, handler.repo(name))


def _by_id(handler: _Handler, query: Any, body: Any, number: str) -> Any:
    for repo in handler.fake.repos.values():
        if repo.id == int(number):
            return 200, {}, _repository(handler.fake, repo)
    raise Refused(404, "Not Found")


def _search(handler: _Handler, query: Any, body: Any) -> Any:
    words = [word for word in query["q"].split() if ":" not in word]
    owner = re.search(r"user:(\S+)", query["q"])
    rows = [
        _repository(handler.fake, repo)
        for name, repo in handler.fake.repos.items()
        if all(word.lower() in name.lower() for word in words)
        and (not owner or name.startswith(f"{owner[1]}/"))
    ]
    if query.get("sort") == "stars":
        rows.sort(key=lambda row: row["stargazers_count"], reverse=query.get("order") != "asc")
    size = int(query.get("per_page", 30))
    return 200, {}, {"total_count": len(rows), "incomplete_results": False, "items": rows[:size]}


def _heads(fake: FakeGitHub, name: str) -> list[dict[str, Any]]:
    refs = git(
        "for-each-ref", "--format=%(objectname) %(refname:short)", "refs/heads", cwd=fake.path(name)
    )
    pairs = [line.split(" ", 1) for line in refs.splitlines()]
    return [
        {"name": branch, "commit": {"sha": sha, "url": ""}, "protected": branch == "main"}
        for sha, branch in pairs
    ]


def _branches(handler: _Handler, query: Any, body: Any, name: str) -> Any:
    handler.repo(name)
    return handler.page(query, _heads(handler.fake, name))


def _contents(handler: _Handler, query: Any, body: Any, name: str, path: str) -> Any:
    handler.repo(name)
    place = handler.fake.folder / "work" / name / path
    try:
        is_folder = place.is_dir()
    except OSError as error:  # the name is too long for the disk
        raise Refused(404, "Not Found") from error
    if is_folder:
        rows = sorted(place.iterdir())
        return (
            200,
            {},
            [
                {
                    "type": "dir" if one.is_dir() else "file",
                    "name": one.name,
                    "path": f"{path}/{one.name}",
                }
                for one in rows
            ],
        )
    if not place.is_file():
        raise Refused(404, "Not Found")
    # GitHub breaks the lines of its base64.
    content = base64.encodebytes(place.read_bytes()).decode()
    return 200, {}, {"type": "file", "path": path, "encoding": "base64", "content": content}


def _open_pull(handler: _Handler, query: Any, body: Any, name: str) -> Any:
    repo = handler.repo(name)
    heads = {one["name"] for one in _heads(handler.fake, name)}
    for end in ("head", "base"):
        if body.get(end) not in heads:
            errors = [{"resource": "PullRequest", "field": end, "code": "invalid"}]
            raise Refused(422, "Validation Failed", errors=errors)
    if any(pull["head"] == body["head"] for pull in repo.pulls):
        message = f"A pull request already exists for {name.partition('/')[0]}:{body['head']}."
        raise Refused(422, "Validation Failed", errors=[{"code": "custom", "message": message}])
    number = len(repo.pulls) + 7
    repo.pulls.append(body | {"number": number})
    return 201, {}, {"number": number, "html_url": f"{handler.fake.url}/{name}/pull/{number}"}


def _label(handler: _Handler, query: Any, body: Any, name: str, number: str) -> Any:
    handler.repo(name).labels[int(number)] = body["labels"]
    return 200, {}, [{"name": label} for label in body["labels"]]


_REPO = r"/repos/([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("/user", "GET", _user),
    ("/user/orgs", "GET", _orgs),
    ("/user/installations", "GET", _installations),
    (r"/user/installations/(\d+)/repositories", "GET", _installed),
    ("/user/repos", "GET", _repos),
    (r"/orgs/([\w.-]+)/repos", "GET", _repos),
    ("/search/repositories", "GET", _search),
    (_REPO, "GET", _one),
    (r"/repositories/(\d+)", "GET", _by_id),
    (f"{_REPO}/branches", "GET", _branches),
    (f"{_REPO}/contents/(.+)", "GET", _contents),
    (f"{_REPO}/pulls", "POST", _open_pull),
    (rf"{_REPO}/issues/(\d+)/labels", "POST", _label),
]


def _graphql(fake: FakeGitHub, body: Any) -> Any:
    variables = body["variables"]
    name = re.match(r"\s*query (\w+)", body["query"])
    assert name, "an operation without a name"
    for declared in re.findall(r"\$(\w+): [\w!]+", body["query"]):
        assert declared in variables, f"the variable {declared} is declared but has no value"
    return _OPERATIONS[name[1]](fake, body["query"], variables)


def _missing(full_name: str) -> dict[str, Any]:
    message = f"Could not resolve to a Repository with the name '{full_name}'."
    return {
        "data": {"repository": None},
        "errors": [{"type": "NOT_FOUND", "path": ["repository"], "message": message}],
    }


def _ql_branches(fake: FakeGitHub, query: str, variables: Any) -> Any:
    full_name = f"{variables['owner']}/{variables['name']}"
    if full_name not in fake.repos:
        return _missing(full_name)
    nodes = [
        {
            "name": one["name"],
            "branchProtectionRule": {"id": "x"} if one["protected"] else None,
            "target": {"oid": one["commit"]["sha"], "committedDate": "2026-11-20T10:00:00Z"},
        }
        for one in _heads(fake, full_name)
        if variables["query"].lower() in one["name"].lower()
    ]
    return {"data": {"repository": {"refs": {"nodes": nodes[: variables["first"]]}}}}


def _ql_dates(fake: FakeGitHub, query: str, variables: Any) -> Any:
    commit = {
        alias: {"nodes": [{"committedDate": "2026-11-19T08:00:00Z"}]}
        for alias in re.findall(r"(p\d+): history", query)
    }
    return {"data": {"repository": {"defaultBranchRef": {"target": commit}}}}


def _ql_tasks(fake: FakeGitHub, query: str, variables: Any) -> Any:
    assert variables["assigned"].endswith(f"assignee:{LOGIN}")
    pulls = [
        {
            "number": pull["number"],
            "title": pull["title"],
            "mergeable": pull.get("mergeable", "MERGEABLE"),
            "reviewDecision": pull.get("decision"),
            "repository": {"nameWithOwner": repo.full_name, "isArchived": False},
            "commits": {
                "nodes": [
                    {
                        "commit": {
                            "statusCheckRollup": {"state": pull["checks"]}
                            if "checks" in pull
                            else None
                        }
                    }
                ]
            },
            "reviewThreads": {"nodes": [{"isResolved": False}] if pull.get("threads") else []},
        }
        for repo in fake.repos.values()
        for pull in repo.pulls
    ]
    issues = [
        issue | {"repository": {"nameWithOwner": repo.full_name}}
        for repo in fake.repos.values()
        for issue in repo.issues
    ]
    return {"data": {"viewer": {"pullRequests": {"nodes": pulls}}, "search": {"nodes": issues}}}


_OPERATIONS = {
    "SearchBranches": _ql_branches,
    "FileDates": _ql_dates,
    "SuggestedTasks": _ql_tasks,
}


def exhausted(_path: str) -> tuple[int, dict[str, str], Any]:
    """Return GitHub's response when the primary rate limit is used up, for ``FakeGitHub.trouble``."""
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()) + 120)}
    return 403, headers, {"message": "API rate limit exceeded for user ID 583231."}
