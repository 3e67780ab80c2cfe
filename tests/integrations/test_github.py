"""The GitHub provider against a server that speaks GitHub's API."""

import os
from typing import ClassVar

import pytest

from integrations import registry
from integrations.github import client, payloads
from integrations.github.provider import has_next
from integrations.provider import (
    Branch,
    GitHostAway,
    GitHostTrouble,
    GitUser,
    NoSuchRepository,
    NotAccepted,
    NotAllowed,
    SuggestedTask,
    TokenRefused,
)
from tests.fakes.github import LOGIN, READ_ONLY, TOKEN, exhausted


@pytest.fixture
def github(fake):
    return registry.get_provider("github", host=fake.host, token=TOKEN)


def connect(fake, token):
    return registry.get_provider("github", host=fake.host, token=token)


def list_repositories(github, **more):
    parameters = {"page": 1, "per_page": 30, "sort": "pushed", "installation": None}
    return github.repositories(**parameters | more)


class TestReads:
    def test_user_of_the_token_is_returned(self, github, fake):
        assert github.user() == GitUser(
            id="583231",
            login=LOGIN,
            avatar_url=f"{fake.url}/avatars/583231",
            company=None,
            name="Octo Cat",
            email=None,
        )

    def test_repository_pages_follow_the_link_header(self, github, fake):
        for number in range(3):
            fake.add(f"octo/r{number}", private=number == 1, stars=number)

        first, second = (
            list_repositories(github, per_page=2),
            list_repositories(github, per_page=2, page=2),
        )

        assert [r.full_name for r in first.items] == ["octo/r0", "octo/r1"]
        assert [r.is_public for r in first.items] == [True, False]
        assert first.has_next
        assert 'page=2&per_page=2>; rel="next"' in first.link_header
        assert [r.full_name for r in second.items] == ["octo/r2"]
        assert (second.has_next, second.link_header) == (False, None)
        assert first.items[0].owner_type == "user"
        assert first.items[0].main_branch == "main"

    def test_installations_are_accounts_for_a_personal_token_and_ids_for_an_app_token(
        self, github, fake
    ):
        fake.add("octo/own")
        fake.add("acme/theirs")

        assert github.installations() == [LOGIN, "acme"]
        assert [r.full_name for r in list_repositories(github, installation="acme").items] == [
            "acme/theirs"
        ]
        assert [r.full_name for r in list_repositories(github, installation=LOGIN).items] == [
            "octo/own"
        ]

        fake.is_app_token = True
        assert github.installations() == ["4242"]
        assert len(list_repositories(github, installation="4242").items) == 2

    def test_search_accepts_words_full_names_and_addresses(self, github, fake):
        fake.add("acme/tool", stars=1)
        fake.add("octo/tool-box", stars=5)

        def find_names(query):
            rows = github.search_repositories(query=query, per_page=5, sort="stars", order="desc")
            return [row.full_name for row in rows]

        assert find_names("tool") == ["octo/tool-box", "acme/tool"]
        assert find_names("acme/tool") == ["acme/tool"]
        assert find_names(f"{fake.url}/acme/tool/pull/3") == ["acme/tool"]
        assert find_names("nobody/nothing") == []
        assert find_names("  ") == []

    def test_redirect_is_followed_to_the_same_host_only(self, github, fake):
        fake.add("octo/new")
        fake.moved["octo/old"] = "octo/new"

        rows = github.search_repositories(query="octo/old", per_page=5, sort="", order="")
        assert [row.full_name for row in rows] == ["octo/new"]

        redirect = (301, {"Location": "http://elsewhere.example/user"}, {})
        fake.trouble = lambda path: redirect if path.endswith("/user") else None
        with pytest.raises(GitHostTrouble):
            github.user()

    def test_branches_are_paged_and_searched(self, github, fake):
        fake.add("octo/r", branches=("fix/one", "fix/two"))

        page = github.branches(repository="octo/r", page=1, per_page=2)
        matches = github.search_branches(repository="octo/r", query="FIX", per_page=30)

        assert [(b.name, b.protected) for b in page.items] == [
            ("fix/one", False),
            ("fix/two", False),
        ]
        assert page.has_next
        sha = page.items[0].commit_sha
        assert len(sha) == 40
        assert matches == [
            Branch("fix/one", sha, protected=False, last_push_date="2026-11-20T10:00:00Z"),
            Branch("fix/two", sha, protected=False, last_push_date="2026-11-20T10:00:00Z"),
        ]
        with pytest.raises(NoSuchRepository):
            github.search_branches(repository="octo/none", query="x", per_page=3)

    def test_microagents_are_listed_and_read(self, github, fake):
        text = "---\nname: flask\ntriggers:\n- flask\n- 7\n---\n# Flask\n"
        fake.add(
            "octo/r",
            {
                ".openhands/microagents/flask.md": text,
                ".openhands/microagents/README.md": "no",
                ".openhands/microagents/data.json": "{}",
            },
        )
        fake.add("octo/bare")
        fake.add("octo/.openhands", {"microagents/all.md": "Be kind.\n"})

        [microagent] = github.microagents(repository="octo/r")
        content = github.microagent(repository="octo/r", path=microagent.path)

        assert (microagent.name, microagent.path) == ("flask", ".openhands/microagents/flask.md")
        assert microagent.created_at == "2026-11-19T08:00:00Z"
        assert (content.content, content.triggers) == (text, ["flask"])
        assert github.microagents(repository="octo/bare") == []
        assert [m.path for m in github.microagents(repository="octo/.openhands")] == [
            "microagents/all.md"
        ]
        for path in ("../../secrets", "nothing.md"):
            with pytest.raises(NoSuchRepository):
                github.microagent(repository="octo/r", path=path)

    def test_suggested_tasks_name_the_problem_of_each_pull_request_and_issue(self, github, fake):
        repo = fake.add("octo/r")
        repo.pulls = [
            {"number": 1, "title": "a", "mergeable": "CONFLICTING", "checks": "FAILURE"},
            {"number": 2, "title": "b", "checks": "ERROR"},
            {"number": 3, "title": "c", "threads": True},
            {"number": 4, "title": "d", "decision": "CHANGES_REQUESTED"},
            {"number": 5, "title": "fine", "checks": "SUCCESS"},
        ]
        repo.issues = [{"number": 9, "title": "bug"}]

        assert github.suggested_tasks() == [
            SuggestedTask("github", kind, "octo/r", number, title)
            for number, title, kind in (
                (1, "a", "MERGE_CONFLICTS"),
                (2, "b", "FAILING_CHECKS"),
                (3, "c", "UNRESOLVED_COMMENTS"),
                (4, "d", "UNRESOLVED_COMMENTS"),
                (9, "bug", "OPEN_ISSUE"),
            )
        ]


class TestPullRequests:
    FIELDS: ClassVar = {
        "target_branch": "main",
        "title": "Fix",
        "body": "So.",
        "draft": True,
        "labels": ["bot"],
    }

    def test_pull_request_is_opened_once_with_its_labels(self, github, fake):
        repo = fake.add("octo/r", branches=("fix",))

        opened = github.create_pull_request(repository="octo/r", source_branch="fix", **self.FIELDS)

        assert (opened.number, opened.url) == (7, f"{fake.url}/octo/r/pull/7")
        assert repo.pulls == [
            {
                "title": "Fix",
                "head": "fix",
                "base": "main",
                "body": "So.",
                "draft": True,
                "number": 7,
            }
        ]
        assert repo.labels == {7: ["bot"]}
        with pytest.raises(NotAccepted, match="already exists"):
            github.create_pull_request(repository="octo/r", source_branch="fix", **self.FIELDS)
        with pytest.raises(NotAccepted, match="head is invalid"):
            github.create_pull_request(repository="octo/r", source_branch="none", **self.FIELDS)

    def test_opened_pull_request_is_returned_although_its_labels_are_rejected(
        self, github, fake, caplog
    ):
        repo = fake.add("octo/r", branches=("fix",))
        rejected = (403, {}, {"message": "no labels"})
        fake.trouble = lambda path: rejected if path.endswith("/labels") else None

        opened = github.create_pull_request(repository="octo/r", source_branch="fix", **self.FIELDS)

        assert (opened.number, repo.labels) == (7, {})
        assert "octo/r#7 without its labels" in caplog.text

    def test_read_only_token_may_not_open_a_pull_request(self, fake):
        fake.add("octo/r", branches=("fix",))
        with pytest.raises(NotAllowed, match="not accessible by personal access token"):
            connect(fake, READ_ONLY).create_pull_request(
                repository="octo/r", source_branch="fix", **self.FIELDS
            )


class TestErrors:
    def test_invalid_token_is_refused_and_not_shown_in_the_error(self, fake):
        with pytest.raises(TokenRefused) as caught:
            connect(fake, "ghp_bad").user()
        assert "ghp_bad" not in repr(caught.value)

    def test_rate_limit_error_has_the_seconds_to_wait(self, github, fake):
        fake.trouble = exhausted
        with pytest.raises(GitHostAway) as caught:
            github.user()
        assert 100 < caught.value.extra["retry_after"] <= 120

        fake.trouble = lambda _: (429, {"Retry-After": "7"}, {"message": "secondary rate limit"})
        with pytest.raises(GitHostAway) as caught:
            github.user()
        assert caught.value.extra["retry_after"] == 7

    @pytest.mark.parametrize(
        ("response", "error"),
        [
            ((200, {}, b"<html>a login page</html>"), GitHostTrouble),
            ((200, {}, {"message": "hello"}), GitHostTrouble),
            ((500, {}, b""), GitHostAway),
            ((503, {}, b"\xff"), GitHostAway),
            ((418, {}, []), GitHostTrouble),
            ((403, {}, {"message": "Must have admin rights"}), NotAllowed),
        ],
    )
    def test_unexpected_response_raises_the_matching_error(self, github, fake, response, error):
        fake.trouble = lambda _: response
        with pytest.raises(error):
            github.user()

    def test_closed_port_raises_git_host_away(self, settings):
        settings.UPSTREAM_ALLOW_PRIVATE = True
        with pytest.raises(GitHostAway):
            registry.get_provider("github", host="127.0.0.1:9", token=TOKEN).user()

    def test_private_hosts_are_not_called_unless_allowed(self, fake, settings):
        settings.UPSTREAM_ALLOW_PRIVATE = False
        with pytest.raises(NotAccepted, match="not allowed"):
            connect(fake, TOKEN).user()
        assert fake.requests == []

    @pytest.mark.parametrize(
        "name", ["octo", "octo/r/x", "../user", "octo/..", "octo/r?x", "octo/r#x", ""]
    )
    def test_invalid_repository_name_is_refused_without_a_request(self, github, fake, name):
        with pytest.raises(NoSuchRepository):
            github.branches(repository=name, page=1, per_page=1)
        assert fake.requests == []


class TestHosts:
    @pytest.mark.parametrize(
        ("host", "stored"),
        [
            ("", ""),
            (None, ""),
            ("https://GitHub.com/", ""),
            ("api.github.com", ""),
            ("https://ghe.example.com:8443", "ghe.example.com:8443"),
        ],
    )
    def test_valid_host_is_normalized(self, host, stored, settings):
        settings.UPSTREAM_ALLOW_PRIVATE = False
        assert registry.normalize_host("github", host) == stored

    @pytest.mark.parametrize(
        "host",
        [
            "http://ghe.example.com",
            "ftp://x",
            "a/b",
            "u:p@x",
            "127.0.0.1",
            "localhost",
            "a b",
            "x:y",
        ],
    )
    def test_invalid_or_private_host_is_refused(self, host, settings):
        settings.UPSTREAM_ALLOW_PRIVATE = False
        with pytest.raises(registry.BadHost):
            registry.normalize_host("github", host)

    def test_api_address_of_each_kind_of_host(self):
        assert client.api_url("github.com") == "https://api.github.com"
        assert client.api_url("ghe.example.com") == "https://ghe.example.com/api/v3"
        assert client.api_url("acme.ghe.com") == "https://api.acme.ghe.com"


@pytest.mark.parametrize(
    "text", ["", "plain", "---\ntriggers: [a", "---\n- a\n---\n", "---\ntriggers: a\n---\n"]
)
def test_invalid_front_matter_has_no_triggers(text):
    assert payloads.parse_triggers(text) == []


def test_link_header_with_rel_next_has_a_next_page():
    assert has_next('<https://x?page=2>; rel="next"')
    assert not has_next('<https://x?page=1>; rel="prev"')
    assert not has_next(None)


if token := os.environ.get("GITHUB_TEST_TOKEN"):

    def test_real_github_accepts_the_same_requests():
        real = registry.get_provider("github", host="github.com", token=token)
        assert real.user().login
        assert list_repositories(real, per_page=2).items
        assert real.installations()
        assert real.search_branches(repository="octocat/Hello-World", query="test", per_page=3)
        assert real.branches(repository="octocat/Hello-World", page=1, per_page=1).has_next
        real.suggested_tasks()
