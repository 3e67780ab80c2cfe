"""The conversion of GitHub's JSON into the records of ``integrations.provider``. Malformed list items are skipped."""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

import yaml

from integrations.provider import (
    Branch,
    GitHostTrouble,
    GitUser,
    MicroagentContent,
    PullRequest,
    Repository,
    SuggestedTask,
    TaskType,
)

PROVIDER = "github"
SUGGESTED_TASKS = """
query SuggestedTasks($assigned: String!) {
  viewer {
    pullRequests(first: 50, states: [OPEN], orderBy: {field: UPDATED_AT, direction: DESC}) {
      nodes {
        number title mergeable reviewDecision
        repository { nameWithOwner isArchived }
        commits(last: 1) { nodes { commit { statusCheckRollup { state } } } }
        reviewThreads(last: 30) { nodes { isResolved } }
      }
    }
  }
  search(query: $assigned, type: ISSUE, first: 50) {
    nodes { ... on Issue { number title repository { nameWithOwner } } }
  }
}
"""
SEARCH_BRANCHES = """
query SearchBranches($owner: String!, $name: String!, $query: String!, $first: Int!) {
  repository(owner: $owner, name: $name) {
    refs(refPrefix: "refs/heads/", query: $query, first: $first) {
      nodes {
        name
        branchProtectionRule { id }
        target { oid ... on Commit { committedDate } }
      }
    }
  }
}
"""


def user(body: Any) -> GitUser:
    """Convert the response of ``GET /user``. Raise ``GitHostTrouble`` if it contains no user."""
    if not isinstance(body, dict) or not isinstance(body.get("login"), str):
        raise GitHostTrouble("The response of the Git host does not name the owner of the token.")
    return GitUser(
        id=str(body.get("id", "")),
        login=body["login"],
        avatar_url=_text(body, "avatar_url") or "",
        company=_text(body, "company"),
        name=_text(body, "name"),
        email=_text(body, "email"),
    )


def repositories(body: Any) -> list[Repository]:
    """Convert any of GitHub's repository lists: a plain list, the result of a search, or an installation's list."""
    if isinstance(body, dict):
        body = body.get("items") or body.get("repositories")
    return [repository(item) for item in _objects(body) if _text(item, "full_name")]


def repository(body: dict[str, Any]) -> Repository:
    """Convert one repository."""
    owner = body.get("owner")
    kind = owner.get("type") if isinstance(owner, dict) else None
    stars = body.get("stargazers_count")
    return Repository(
        id=str(body.get("id", "")),
        full_name=str(body.get("full_name", "")),
        git_provider=PROVIDER,
        is_public=body.get("private") is False,
        stargazers_count=stars if type(stars) is int else None,
        pushed_at=_text(body, "pushed_at"),
        owner_type="organization" if kind == "Organization" else "user",
        main_branch=_text(body, "default_branch"),
    )


def branches(body: Any) -> list[Branch]:
    """Convert the response of ``GET /repos/{owner}/{name}/branches``, which contains no dates."""
    return [
        Branch(
            name=item["name"],
            commit_sha=str((item.get("commit") or {}).get("sha", "")),
            protected=item.get("protected") is True,
        )
        for item in _objects(body)
        if _text(item, "name")
    ]


def searched_branches(data: dict[str, Any]) -> list[Branch]:
    """Convert the response data of the GraphQL query ``SEARCH_BRANCHES``."""
    nodes = _in(data, "repository", "refs", "nodes")
    return [
        Branch(
            name=node["name"],
            commit_sha=str(_in(node, "target", "oid") or ""),
            protected=node.get("branchProtectionRule") is not None,
            last_push_date=_in(node, "target", "committedDate"),
        )
        for node in _objects(nodes)
        if _text(node, "name")
    ]


def suggested_tasks(data: dict[str, Any]) -> list[SuggestedTask]:
    """Convert the response data of ``SUGGESTED_TASKS``: pull requests that need work, and assigned issues."""
    tasks = []
    for pull in _objects(_in(data, "viewer", "pullRequests", "nodes")):
        kind = _pull_request_task(pull)
        if kind is not None and _in(pull, "repository", "isArchived") is not True:
            tasks += _task(pull, kind)
    for issue in _objects(_in(data, "search", "nodes")):
        tasks += _task(issue, "OPEN_ISSUE")
    return tasks


def _pull_request_task(pull: dict[str, Any]) -> TaskType | None:
    """Return the most urgent problem of a pull request, or None if there is no problem."""
    if pull.get("mergeable") == "CONFLICTING":
        return "MERGE_CONFLICTS"
    commits = list(_objects(_in(pull, "commits", "nodes")))
    state = _in(commits[-1], "commit", "statusCheckRollup", "state") if commits else None
    if state in ("FAILURE", "ERROR"):
        return "FAILING_CHECKS"
    threads = _objects(_in(pull, "reviewThreads", "nodes"))
    is_open = any(thread.get("isResolved") is False for thread in threads)
    if is_open or pull.get("reviewDecision") == "CHANGES_REQUESTED":
        return "UNRESOLVED_COMMENTS"
    return None


def _task(item: dict[str, Any], kind: TaskType) -> list[SuggestedTask]:
    """Return a list with the task of a pull request or issue; an empty list if the item is malformed."""
    repo, number = _in(item, "repository", "nameWithOwner"), item.get("number")
    if not isinstance(repo, str) or type(number) is not int:
        return []
    title = str(item.get("title") or "")
    return [SuggestedTask(PROVIDER, kind, repo, number, title)]


def file_dates_query(paths: list[str]) -> tuple[str, dict[str, str]]:
    """Return a GraphQL query and its variables. The query asks when a commit last changed each path.

    Only commits on the default branch count.
    """
    # GraphQL has no query for a list of paths: request each path under its own alias, p0, p1, …
    names = [f"p{number}" for number in range(len(paths))]
    declarations = "".join(f", ${name}: String!" for name in names)
    fields = " ".join(
        f"{name}: history(first: 1, path: ${name}) {{ nodes {{ committedDate }} }}"
        for name in names
    )
    query = (
        f"query FileDates($owner: String!, $name: String!{declarations}) "
        f"{{ repository(owner: $owner, name: $name) "
        f"{{ defaultBranchRef {{ target {{ ... on Commit {{ {fields} }} }} }} }} }}"
    )
    return query, dict(zip(names, paths, strict=True))


def file_dates(data: dict[str, Any], paths: list[str]) -> dict[str, str]:
    """Return a dict from path to RFC 3339 date, read from the response data of ``file_dates_query``."""
    commit = _in(data, "repository", "defaultBranchRef", "target")
    dates = {}
    for number, path in enumerate(paths):
        nodes = list(_objects(_in(commit, f"p{number}", "nodes")))
        date = nodes[0].get("committedDate") if nodes else None
        if isinstance(date, str):
            dates[path] = date
    return dates


def markdown_files(body: Any) -> list[str]:
    """Return the paths of the Markdown files in a folder's listing, except ``README.md``."""
    return [
        item["path"]
        for item in _objects(body)
        if item.get("type") == "file"
        and str(item.get("name", "")).lower().endswith(".md")
        and str(item["name"]).lower() != "readme.md"
        and _text(item, "path")
    ]


def microagent(body: Any, path: str) -> MicroagentContent:
    """Convert the response for a file with instructions for agents.

    Raise ``GitHostTrouble`` if the response contains no text.
    """
    try:
        raw = base64.b64decode(body["content"])
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise GitHostTrouble(
            "The response of the Git host does not contain this file's text."
        ) from error
    text = raw.decode("utf-8", "replace")
    return MicroagentContent(text, path, parse_triggers(text), PROVIDER)


def parse_triggers(text: str) -> list[str]:
    """Return the ``triggers`` in the YAML front matter, which stands between two lines of ``---``.

    Return an empty list if there is no front matter or if it is malformed.
    """
    lines = text.splitlines()
    if (
        not lines
        or lines[0].strip() != "---"
        or "---" not in (rest := [x.strip() for x in lines[1:]])
    ):
        return []
    try:
        front = yaml.safe_load("\n".join(lines[1 : rest.index("---") + 1]))
    except (yaml.YAMLError, RecursionError, ValueError):
        return []
    words = front.get("triggers") if isinstance(front, dict) else None
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []


def pull_request(body: Any) -> PullRequest:
    """Convert a newly opened pull request. Raise ``GitHostTrouble`` if the response contains no number."""
    if not isinstance(body, dict) or type(body.get("number")) is not int:
        raise GitHostTrouble(
            "The response of the Git host does not contain the pull request's number."
        )
    return PullRequest(number=body["number"], url=_text(body, "html_url") or "")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in (value if isinstance(value, list) else []) if isinstance(item, dict))


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) else None


def _in(value: Any, *names: str) -> Any:
    """Return the value at a path of nested objects; None if an object on the path is missing or null."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
