"""The implementation of ``GitProvider`` for GitHub."""

import logging
import re
from typing import Any
from urllib.parse import quote, urlsplit

from conversations.repositories import CloneSource
from integrations.github import payloads
from integrations.github.client import GitHubClient
from integrations.provider import (
    Branch,
    GitUser,
    Microagent,
    MicroagentContent,
    NoSuchRepository,
    NotAllowed,
    Page,
    PullRequest,
    Repository,
    SuggestedTask,
)
from lib.problems import Problem

log = logging.getLogger(__name__)
_FULL_NAME = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_SORTS = {"pushed", "created", "updated", "full_name"}
_SEARCH_SORTS = {"stars", "forks", "updated"}
PAGE_MAX = 100
CONFIG_REPOSITORIES = {"openhands-config", ".openhands"}
"""Names of repositories that contain only OpenHands settings. Their ``microagents`` folder is at the top level."""


class GitHubProvider:
    """A GitHub host, called with a personal access token or with a user token of a GitHub App."""

    name = payloads.PROVIDER

    def __init__(self, *, host: str, token: str) -> None:
        self.host = host
        self._token = token
        self._client = GitHubClient(host=host, token=token)

    def user(self) -> GitUser:
        return payloads.user(self._client.get("/user")[0])

    def installations(self) -> list[str]:
        """Return the ids of the GitHub App's installations. With a personal token, return account names instead.

        GitHub responds with 403 to a request for installations with a personal token.
        """
        try:
            body, _ = self._client.get("/user/installations", per_page=PAGE_MAX)
        except (NotAllowed, NoSuchRepository):
            return self._accounts()
        rows = body.get("installations") if isinstance(body, dict) else None
        return [str(row["id"]) for row in rows or [] if isinstance(row, dict) and "id" in row]

    def _accounts(self) -> list[str]:
        body, _ = self._client.get("/user/orgs", per_page=PAGE_MAX)
        rows = body if isinstance(body, list) else []
        organizations = [row["login"] for row in rows if isinstance(row, dict) and row.get("login")]
        return [self.user().login, *organizations]

    def repositories(
        self, *, page: int, per_page: int, sort: str, installation: str | None
    ) -> Page[Repository]:
        path, query = "/user/repos", {"sort": sort if sort in _SORTS else "pushed"}
        if installation and installation.isdecimal():
            path, query = f"/user/installations/{installation}/repositories", {}
        elif installation and installation.lower() == self.user().login.lower():
            query["affiliation"] = "owner"
        elif installation:
            path = f"/orgs/{quote(installation, safe='')}/repos"
        body, headers = self._client.get(path, page=page, per_page=min(per_page, PAGE_MAX), **query)
        link = headers.get("link")
        return Page(payloads.repositories(body), has_next(link), link)

    def search_repositories(
        self, *, query: str, per_page: int, sort: str, order: str
    ) -> list[Repository]:
        """Search by words. For a full name or a URL, the repository with this name comes first."""
        name = self._full_name(query)
        exact = self._repository(name) if name else []
        words = name.partition("/")[2] + f" user:{name.partition('/')[0]}" if name else query
        if not words.strip():
            return []
        try:
            body, _ = self._client.get(
                "/search/repositories",
                q=f"{words} in:name fork:true"[:256],
                per_page=min(per_page, PAGE_MAX),
                sort=sort if sort in _SEARCH_SORTS else None,
                order="asc" if order == "asc" else "desc",
            )
        except NoSuchRepository:
            return exact
        # The search also finds the exact match, so remove the duplicate.
        known = {repository.id for repository in exact}
        return (exact + [r for r in payloads.repositories(body) if r.id not in known])[:per_page]

    def _full_name(self, query: str) -> str:
        """Return ``owner/name`` if the query is a full name or a repository's URL on this host, else an empty text."""
        text = query.strip()
        if "://" in text:
            host = urlsplit(self._client.web_url).hostname
            try:
                parts = urlsplit(text)
            except ValueError:  # such as an IPv6 address without its closing bracket
                return ""
            if (parts.hostname or "").removeprefix("www.") != host:
                return ""
            text = "/".join(parts.path.strip("/").split("/")[:2])
        text = text.removesuffix(".git")
        return text if _FULL_NAME.fullmatch(text) else ""

    def _repository(self, full_name: str) -> list[Repository]:
        try:
            body, _ = self._client.get(f"/repos/{_path(full_name)}")
        except (NoSuchRepository, NotAllowed):
            return []
        return payloads.repositories([body])

    def branches(self, *, repository: str, page: int, per_page: int) -> Page[Branch]:
        body, headers = self._client.get(
            f"/repos/{_path(repository)}/branches", page=page, per_page=min(per_page, PAGE_MAX)
        )
        link = headers.get("link")
        return Page(payloads.branches(body), has_next(link), link)

    def search_branches(self, *, repository: str, query: str, per_page: int) -> list[Branch]:
        owner, name = _owner_and_name(repository)
        data = self._client.graphql(
            payloads.SEARCH_BRANCHES,
            {"owner": owner, "name": name, "query": query, "first": min(per_page, PAGE_MAX)},
        )
        if data.get("repository") is None:
            raise NoSuchRepository
        return payloads.searched_branches(data)

    def microagents(self, *, repository: str) -> list[Microagent]:
        owner, name = _owner_and_name(repository)
        folder = "microagents" if name in CONFIG_REPOSITORIES else ".openhands/microagents"
        try:
            body, _ = self._client.get(f"/repos/{_path(repository)}/contents/{folder}")
        except NoSuchRepository:
            # GitHub responds with 404 in both cases: a missing folder means an empty list, but a missing repository
            # must raise.
            self._client.get(f"/repos/{_path(repository)}")
            return []
        paths = payloads.markdown_files(body)[:PAGE_MAX]
        if not paths:
            return []
        query, variables = payloads.file_dates_query(paths)
        data = self._client.graphql(query, {"owner": owner, "name": name} | variables)
        dates = payloads.file_dates(data, paths)
        return [
            Microagent(path.rpartition("/")[2].removesuffix(".md"), path, dates.get(path, ""))
            for path in paths
        ]

    def microagent(self, *, repository: str, path: str) -> MicroagentContent:
        if ".." in path.split("/"):
            raise NoSuchRepository
        body, _ = self._client.get(f"/repos/{_path(repository)}/contents/{quote(path.lstrip('/'))}")
        return payloads.microagent(body, path)

    def suggested_tasks(self) -> list[SuggestedTask]:
        login = self.user().login
        data = self._client.graphql(
            payloads.SUGGESTED_TASKS,
            {"assigned": f"is:issue is:open archived:false assignee:{login}"},
        )
        return payloads.suggested_tasks(data)

    def create_pull_request(
        self,
        *,
        repository: str,
        source_branch: str,
        target_branch: str,
        title: str,
        body: str,
        draft: bool,
        labels: list[str],
    ) -> PullRequest:
        opened = payloads.pull_request(
            self._client.post(
                f"/repos/{_path(repository)}/pulls",
                {
                    "title": title,
                    "head": source_branch,
                    "base": target_branch,
                    "body": body,
                    "draft": draft,
                },
            )
        )
        if labels:
            self._add_labels(repository, opened.number, labels)
        return opened

    def _add_labels(self, repository: str, number: int, labels: list[str]) -> None:
        """Add labels to a pull request. GitHub does not accept labels in the request that opens it."""
        # The pull request is already open. An exception here would lose its number, and the caller could not repeat
        # the request.
        try:
            self._client.post(
                f"/repos/{_path(repository)}/issues/{number}/labels", {"labels": labels}
            )
        except Problem as problem:
            log.warning(
                "Opened the pull request %s#%s without its labels: %s",
                repository,
                number,
                problem.detail,
            )

    def clone_source(self, *, repository: str) -> CloneSource:
        url = f"{self._client.web_url}/{_path(repository)}.git"
        return CloneSource(url, username="x-access-token", secret=self._token)


def has_next(link_header: str | None) -> bool:
    """Return whether a ``Link`` header (RFC 8288) names a next page."""
    return bool(link_header) and 'rel="next"' in str(link_header)


def _path(full_name: str) -> str:
    owner, name = _owner_and_name(full_name)
    return f"{owner}/{name}"


def _owner_and_name(full_name: str) -> tuple[Any, Any]:
    """Split a full name into owner and name, both safe in a URL path.

    Raise ``NoSuchRepository`` if the full name is not valid.
    """
    if not _FULL_NAME.fullmatch(full_name) or {".", ".."} & set(full_name.split("/")):
        raise NoSuchRepository
    owner, _, name = full_name.partition("/")
    return owner, name
