"""``GitProvider``, the common interface of Git hosts, with the records that it returns and the exceptions it raises.

``registry.get_provider`` creates a provider from a host and a token. A provider does not use the database.
"""

from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

from conversations.repositories import CloneSource
from lib.problems import Problem

TaskType: TypeAlias = Literal[
    "MERGE_CONFLICTS", "FAILING_CHECKS", "UNRESOLVED_COMMENTS", "OPEN_ISSUE"
]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class GitUser:
    """The Git host account that a token belongs to."""

    id: str
    login: str
    avatar_url: str
    company: str | None = None
    name: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that the token can read. ``pushed_at`` is an RFC 3339 date from the Git host."""

    id: str
    full_name: str
    git_provider: str
    is_public: bool
    stargazers_count: int | None = None
    pushed_at: str | None = None
    owner_type: Literal["user", "organization"] | None = None
    main_branch: str | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch with its newest commit. ``last_push_date`` is an RFC 3339 date from the Git host."""

    name: str
    commit_sha: str
    protected: bool
    last_push_date: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a list. ``link_header`` is the ``Link`` header of the Git host's response, for compat clients."""

    items: list[Item]
    has_next: bool
    link_header: str | None = None


@dataclass(frozen=True, slots=True)
class Microagent:
    """A file with instructions for agents. ``created_at`` is the date of the newest commit that changed the file."""

    name: str
    path: str
    created_at: str


@dataclass(frozen=True, slots=True)
class MicroagentContent:
    """The text of a file with instructions for agents, and the words that trigger its use."""

    content: str
    path: str
    triggers: list[str]
    git_provider: str


@dataclass(frozen=True, slots=True)
class SuggestedTask:
    """A task for the token's owner: a pull request of the owner that needs work, or an issue assigned to the owner."""

    git_provider: str
    task_type: TaskType
    repo: str
    issue_number: int
    title: str


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A newly opened pull request."""

    number: int
    url: str


class GitHostTrouble(Problem):
    """The Git host returned an invalid response. A retry will not help."""

    status = 502
    code = "git-host-trouble"
    sentence = "The Git host returned an unexpected response. Check the host name."


class GitHostAway(Problem):
    """The Git host is unreachable, fails, or limits requests. A later retry may succeed."""

    status = 503
    code = "git-host-away"
    sentence = "The Git host does not respond. Try again later."


class TokenRefused(Problem):
    """The Git host does not accept the token: it is invalid, expired or revoked."""

    status = 409
    code = "provider-token-refused"
    sentence = "The Git host rejected this token. Create a new token and connect again."


class NotAllowed(Problem):
    """The token lacks a permission for the request."""

    status = 409
    code = "provider-token-lacks"
    sentence = (
        "Your token lacks the permission for this request. Add the permission at the Git host."
    )


class NoSuchRepository(Problem):
    """The repository, branch or file does not exist, or the token cannot read it.

    Git hosts return the same status in both cases.
    """

    status = 404
    code = "no-such-repository"
    sentence = "The repository, branch or file does not exist, or your token has no access to it."


class NotAccepted(Problem):
    """The Git host rejected the content of a request. ``detail`` contains the message of the Git host."""

    status = 422
    code = "git-host-refused"
    sentence = "The Git host rejected this request."


class GitProvider(Protocol):
    """A Git host, called with one token.

    Every method except ``clone_source`` may raise ``GitHostAway`` (transient), ``TokenRefused``, ``NotAllowed``,
    ``NoSuchRepository``, ``NotAccepted`` or ``GitHostTrouble``. ``repository`` is a full name, ``owner/name``. Page
    numbers start at 1. Methods that only read are safe to repeat.
    """

    name: str
    host: str

    def user(self) -> GitUser:
        """Return the owner of the token. Raise ``TokenRefused`` if the token is not valid."""
        ...

    def installations(self) -> list[str]:
        """Return the values which ``repositories`` accepts as ``installation``: installation ids or account names."""
        ...

    def repositories(
        self, *, page: int, per_page: int, sort: str, installation: str | None
    ) -> Page[Repository]:
        """Return a page of the repositories that the token can read, limited to ``installation`` if it is given."""
        ...

    def search_repositories(
        self, *, query: str, per_page: int, sort: str, order: str
    ) -> list[Repository]:
        """Return the repositories that match ``query``: words, a full name (``owner/name``) or a URL."""
        ...

    def branches(self, *, repository: str, page: int, per_page: int) -> Page[Branch]:
        """Return a page of a repository's branches, in the order of the Git host."""
        ...

    def search_branches(self, *, repository: str, query: str, per_page: int) -> list[Branch]:
        """Return the branches of a repository whose name contains the text ``query``."""
        ...

    def microagents(self, *, repository: str) -> list[Microagent]:
        """Return the files with instructions for agents in a repository, without their text."""
        ...

    def microagent(self, *, repository: str, path: str) -> MicroagentContent:
        """Return the content of one file with instructions for agents."""
        ...

    def suggested_tasks(self) -> list[SuggestedTask]:
        """Return the open tasks of the token's owner: pull requests that need work, then assigned issues."""
        ...

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
        """Open a pull request from one branch into another.

        If the pull request is open but ``labels`` cannot be added, log a warning and return the pull request. Not safe
        to repeat: the host rejects a second pull request for the same branches with ``NotAccepted``.
        """
        ...

    def clone_source(self, *, repository: str) -> CloneSource:
        """Return the URL and credentials for cloning a repository, without calling the host."""
        ...
