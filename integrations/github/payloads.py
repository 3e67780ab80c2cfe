"""GitHub's JSON into the records of ``integrations.provider``; what is malformed is left out, not trusted."""

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
    """Of ``GET /user``; raises ``GitHostTrouble`` for an answer that names nobody."""
    if not isinstance(body, dict) or not isinstance(body.get("login"), str):
        raise GitHostTrouble("The Git host does not say whose token this is.")
    return GitUser(
        id=str(body.get("id", "")),
        login=body["login"],
        avatar_url=_text(body, "avatar_url") or "",
        company=_text(body, "company"),
        name=_text(body, "name"),
        email=_text(body, "email"),
    )


def repositories(body: Any) -> list[Repository]:
    """Of a list of repositories, of a search, or of an installation's repositories."""
    if isinstance(body, dict):
        body = body.get("items") or body.get("repositories")
    return [repository(one) for one in _objects(body) if _text(one, "full_name")]


def repository(body: dict[str, Any]) -> Repository:
    """Of one repository."""
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
    """Of ``GET /repos/{owner}/{name}/branches``, which does not date them."""
    return [
        Branch(
            name=one["name"],
            commit_sha=str((one.get("commit") or {}).get("sha", "")),
            protected=one.get("protected") is True,
        )
        for one in _objects(body)
        if _text(one, "name")
    ]


def found_branches(data: dict[str, Any]) -> list[Branch]:
    """Of ``SEARCH_BRANCHES``."""
    nodes = _in(data, "repository", "refs", "nodes")
    return [
        Branch(
            name=one["name"],
            commit_sha=str(_in(one, "target", "oid") or ""),
            protected=one.get("branchProtectionRule") is not None,
            last_push_date=_in(one, "target", "committedDate"),
        )
        for one in _objects(nodes)
        if _text(one, "name")
    ]


def suggested_tasks(data: dict[str, Any]) -> list[SuggestedTask]:
    """Of ``SUGGESTED_TASKS``: one task for a pull request in trouble, one for an assigned issue."""
    found = []
    for one in _objects(_in(data, "viewer", "pullRequests", "nodes")):
        kind = _trouble(one)
        if kind is not None and _in(one, "repository", "isArchived") is not True:
            found += _task(one, kind)
    for one in _objects(_in(data, "search", "nodes")):
        found += _task(one, "OPEN_ISSUE")
    return found


def _trouble(pull: dict[str, Any]) -> TaskType | None:
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


def _task(one: dict[str, Any], kind: TaskType) -> list[SuggestedTask]:
    repo, number = _in(one, "repository", "nameWithOwner"), one.get("number")
    if not isinstance(repo, str) or type(number) is not int:
        return []
    title = str(one.get("title") or "")
    return [SuggestedTask(PROVIDER, kind, repo, number, title)]


def file_dates_query(paths: list[str]) -> tuple[str, dict[str, str]]:
    """A query for the newest commit of each path on the default branch, and its variables."""
    names = [f"p{number}" for number in range(len(paths))]
    declared = "".join(f", ${name}: String!" for name in names)
    asked = " ".join(
        f"{name}: history(first: 1, path: ${name}) {{ nodes {{ committedDate }} }}"
        for name in names
    )
    query = (
        f"query FileDates($owner: String!, $name: String!{declared}) {{ repository(owner: $owner, name: $name) "
        f"{{ defaultBranchRef {{ target {{ ... on Commit {{ {asked} }} }} }} }} }}"
    )
    return query, dict(zip(names, paths, strict=True))


def file_dates(data: dict[str, Any], paths: list[str]) -> dict[str, str]:
    """Of ``file_dates_query``: RFC 3339 by path."""
    commit = _in(data, "repository", "defaultBranchRef", "target")
    found = {}
    for number, path in enumerate(paths):
        nodes = list(_objects(_in(commit, f"p{number}", "nodes")))
        date = nodes[0].get("committedDate") if nodes else None
        if isinstance(date, str):
            found[path] = date
    return found


def markdown_files(body: Any) -> list[str]:
    """The paths of the Markdown files in a folder's listing, without the read-me."""
    return [
        one["path"]
        for one in _objects(body)
        if one.get("type") == "file"
        and str(one.get("name", "")).lower().endswith(".md")
        and str(one["name"]).lower() != "readme.md"
        and _text(one, "path")
    ]


def microagent(body: Any, path: str) -> MicroagentContent:
    """Of a file's content; ``triggers`` come from the YAML between the first two lines of ``---``."""
    try:
        raw = base64.b64decode(body["content"])
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise GitHostTrouble("The Git host does not give this file's text.") from error
    text = raw.decode("utf-8", "replace")
    return MicroagentContent(text, path, triggers_of(text), PROVIDER)


def triggers_of(text: str) -> list[str]:
    """The words that call for a file of instructions; malformed front matter has none."""
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
    named = front.get("triggers") if isinstance(front, dict) else None
    return [one for one in named if isinstance(one, str)] if isinstance(named, list) else []


def pull_request(body: Any) -> PullRequest:
    """Of a pull request that was opened."""
    if not isinstance(body, dict) or type(body.get("number")) is not int:
        raise GitHostTrouble("The Git host does not say which pull request it opened.")
    return PullRequest(number=body["number"], url=_text(body, "html_url") or "")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (one for one in (value if isinstance(value, list) else []) if isinstance(one, dict))


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) else None


def _in(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
