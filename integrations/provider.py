"""What the rest of the system knows about Git hosts: one interface, whatever host it is.

A provider never touches the database. It is made of a host and a token (``registry``), answers in the frozen
records of this module, and refuses with the problems of this module.
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
    """Whose token it is."""

    id: str
    login: str
    avatar_url: str
    company: str | None = None
    name: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that the token reads; ``pushed_at`` is RFC 3339, as the host wrote it."""

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
    """A branch and its newest commit."""

    name: str
    commit_sha: str
    protected: bool
    last_push_date: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a list. ``link_header`` is the host's own, for clients that read it."""

    items: list[Item]
    has_next: bool
    link_header: str | None = None


@dataclass(frozen=True, slots=True)
class Microagent:
    """A file of instructions for agents that a repository carries; ``created_at`` of its newest commit."""

    name: str
    path: str
    created_at: str


@dataclass(frozen=True, slots=True)
class MicroagentContent:
    """Such a file's text, and the words that call for it."""

    content: str
    path: str
    triggers: list[str]
    git_provider: str


@dataclass(frozen=True, slots=True)
class SuggestedTask:
    """Something that waits for the token's owner: a pull request in trouble or an assigned issue."""

    git_provider: str
    task_type: TaskType
    repo: str
    issue_number: int
    title: str


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A pull request that was opened."""

    number: int
    url: str


class GitHostTrouble(Problem):
    """The host answered with something that asking again will not change."""

    status = 502
    code = "git-host-trouble"
    sentence = "The Git host did not answer as it should."


class GitHostAway(Problem):
    """The host did not answer, or asked us to come back later. Asking again may do."""

    status = 503
    code = "git-host-away"
    sentence = "The Git host does not answer. Try again in a while."


class TokenRefused(Problem):
    """The host does not accept the token any more, or never did."""

    status = 409
    code = "provider-token-refused"
    sentence = "The Git host refused this token. Make a new one and connect again."


class NotAllowed(Problem):
    """The host knows the token, which lacks what this takes."""

    status = 409
    code = "provider-token-lacks"
    sentence = "The token may not do this. Give it the permission at the Git host."


class NoSuchRepository(Problem):
    """There is none, or none that the token reads: hosts do not tell the two apart."""

    status = 404
    code = "no-such-repository"
    sentence = "There is no such repository, branch or file, or none that your token reads."


class NotAccepted(Problem):
    """The host refuses what was sent; its own words say why."""

    status = 422
    code = "git-host-refused"
    sentence = "The Git host did not accept this."


class GitProvider(Protocol):
    """One Git host on behalf of one token.

    Every call may raise ``GitHostAway`` (transient), ``TokenRefused``, ``NotAllowed``, ``NoSuchRepository``,
    ``NotAccepted`` or ``GitHostTrouble``. Reading may be repeated. Pages count from 1.
    """

    name: str
    host: str

    def user(self) -> GitUser:
        """Whose token it is; the way to find out whether the token is good."""
        ...

    def installations(self) -> list[str]:
        """What repositories can be narrowed to: ids of app installations, or names of accounts."""
        ...

    def repositories(
        self, *, page: int, per_page: int, sort: str, installation: str | None
    ) -> Page[Repository]:
        """Repositories that the token's owner may push to or reads as a member."""
        ...

    def search_repositories(
        self, *, query: str, per_page: int, sort: str, order: str
    ) -> list[Repository]:
        """Repositories by words, by ``owner/name`` or by address."""
        ...

    def branches(self, *, repository: str, page: int, per_page: int) -> Page[Branch]:
        """Branches in the host's order."""
        ...

    def search_branches(self, *, repository: str, query: str, per_page: int) -> list[Branch]:
        """Branches whose name holds a text."""
        ...

    def microagents(self, *, repository: str) -> list[Microagent]:
        """The repository's files of instructions for agents; none is an empty list."""
        ...

    def microagent(self, *, repository: str, path: str) -> MicroagentContent:
        """One of them."""
        ...

    def suggested_tasks(self) -> list[SuggestedTask]:
        """What waits for the token's owner, pull requests first."""
        ...

    def create_pull_request(
        self,
        *,
        repository: str,
        source: str,
        target: str,
        title: str,
        body: str,
        draft: bool,
        labels: list[str],
    ) -> PullRequest:
        """Open a pull request. A repeat is refused by the host (``NotAccepted``)."""
        ...

    def clone_source(self, *, repository: str) -> CloneSource:
        """How the repository is cloned with this token. Asks nobody."""
        ...
