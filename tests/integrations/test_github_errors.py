"""Responses of GitHub beyond the normal case: errors, redirects, limits of size, and malformed bodies."""

import pytest

from conversations.repositories import CloneSource
from integrations import registry
from integrations.github import client, payloads
from integrations.provider import (
    Branch,
    GitHostAway,
    GitHostTrouble,
    NoSuchRepository,
    NotAccepted,
    NotAllowed,
    Repository,
    SuggestedTask,
)
from tests.fakes.github import TOKEN


@pytest.fixture
def github(fake):
    return registry.get_provider("github", host=fake.host, token=TOKEN)


def read_branches(github):
    return github.branches(repository="octo/r", page=1, per_page=5)


class TestStatus:
    @pytest.mark.parametrize("status", [404, 410, 451])
    def test_missing_repository_raises_no_such_repository(self, github, fake, status):
        fake.trouble = lambda _: (status, {}, {"message": "Not Found"})

        with pytest.raises(NoSuchRepository):
            read_branches(github)

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            ({"message": "Bad"}, "rejected this request: Bad$"),
            ({"message": "Bad", "errors": ["worse", {"message": "worst"}]}, "Bad. worse. worst$"),
            ({"errors": [{"field": "head", "code": "invalid"}, {"code": "x"}]}, "head is invalid$"),
            ({"message": 7, "errors": "x"}, "status 422$"),
            ([], "status 422$"),
            (b"<html>", "status 422$"),
        ],
    )
    def test_rejected_request_repeats_the_messages_of_the_host(self, github, fake, body, sentence):
        fake.trouble = lambda _: (422, {}, body)

        with pytest.raises(NotAccepted, match=sentence):
            read_branches(github)

    @pytest.mark.parametrize(
        ("headers", "message", "seconds"),
        [
            ({"Retry-After": "999999"}, "", 3_600),
            ({"Retry-After": "0"}, "", 1),
            ({"x-ratelimit-remaining": "0"}, "", 60),
            ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "0"}, "", 1),
            ({}, "You have exceeded a secondary rate limit", 60),
        ],
    )
    def test_rate_limit_waits_between_a_second_and_an_hour(
        self, github, fake, headers, message, seconds
    ):
        fake.trouble = lambda _: (403, headers, {"message": message})

        with pytest.raises(GitHostAway) as caught:
            read_branches(github)
        assert caught.value.extra["retry_after"] == seconds

    def test_endless_redirect_ends_after_three_hops(self, github, fake):
        fake.trouble = lambda path: (301, {"Location": f"{fake.url}{path}"}, {})

        with pytest.raises(GitHostTrouble, match="unexpected status 301"):
            read_branches(github)
        assert len(fake.requests) == 4

    def test_redirect_of_a_post_is_not_followed(self, github, fake):
        fake.trouble = lambda path: (307, {"Location": f"{fake.url}/api/v3/user"}, {})

        with pytest.raises(GitHostTrouble):
            github.search_branches(repository="octo/r", query="x", per_page=5)
        assert len(fake.requests) == 1

    def test_response_above_the_limit_is_refused(self, github, fake, monkeypatch):
        monkeypatch.setattr(client, "BODY_MAX_BYTES", 100)
        fake.trouble = lambda _: (200, {}, b"[" + b" " * 200 + b"]")

        with pytest.raises(GitHostTrouble, match="larger than 100 bytes"):
            read_branches(github)


class TestGraphql:
    @pytest.mark.parametrize(
        ("body", "error", "sentence"),
        [
            ({"errors": [{"type": "RATE_LIMITED"}]}, GitHostAway, None),
            ({"errors": [{"type": "FORBIDDEN", "message": "SSO"}]}, NotAllowed, "your token: SSO"),
            ({"errors": [{"type": "INSUFFICIENT_SCOPES"}]}, NotAllowed, "your token"),
            ({"errors": [{"type": "NOT_FOUND"}]}, NoSuchRepository, None),
            ({"errors": [{"message": "Boom"}]}, GitHostTrouble, "query: Boom"),
            ({"errors": "x"}, GitHostTrouble, "no data"),
            ({"data": None, "errors": ["x"]}, GitHostTrouble, "no data"),
            ([], GitHostTrouble, "no data"),
        ],
    )
    def test_query_without_data_raises_the_matching_error(
        self, github, fake, body, error, sentence
    ):
        fake.trouble = lambda _: (200, {}, body)

        with pytest.raises(error, match=sentence):
            github.search_branches(repository="octo/r", query="x", per_page=5)

    def test_partial_data_with_an_error_is_used(self, github, fake):
        node = {"name": "fix", "target": {"oid": "1"}}
        data = {"repository": {"refs": {"nodes": [node, None, {"name": 7}]}}}
        fake.trouble = lambda _: (200, {}, {"data": data, "errors": [{"type": "FORBIDDEN"}]})

        branches = github.search_branches(repository="octo/r", query="x", per_page=5)

        assert branches == [Branch("fix", "1", protected=False, last_push_date=None)]


class TestSearch:
    def test_repository_of_another_host_is_searched_by_words_only(self, github, fake):
        fake.add("octo/tool")

        for host, count in ((fake.url, 1), ("https://elsewhere.example", 0)):
            fake.requests.clear()
            query = f"{host}/octo/tool"
            github.search_repositories(query=query, per_page=5, sort="", order="")
            assert sum("/repos/octo/tool" in path for path in fake.paths()) == count
            assert sum("/search/repositories" in path for path in fake.paths()) == 1

    @pytest.mark.parametrize("query", ["https://[1:1", "https://[x]/octo/tool"])
    def test_query_that_is_no_valid_url_is_searched_by_words(self, github, fake, query):
        github.search_repositories(query=query, per_page=5, sort="", order="")

        assert ["/search/repositories" in path for path in fake.paths()] == [True]

    def test_search_of_an_unknown_owner_still_returns_the_exact_match(self, github, fake):
        fake.add("octo/tool")
        missing = (404, {}, {"message": "Not Found"})
        fake.trouble = lambda path: missing if "/search/" in path else None

        rows = github.search_repositories(query="octo/tool.git", per_page=5, sort="", order="")

        assert [row.full_name for row in rows] == ["octo/tool"]

    def test_exact_match_without_permission_is_left_out(self, github, fake):
        fake.add("octo/tool")
        denied = (403, {}, {"message": "SSO"})
        fake.trouble = lambda path: denied if "/repos/" in path else None

        rows = github.search_repositories(query="octo/tool", per_page=5, sort="", order="")

        assert [row.full_name for row in rows] == ["octo/tool"]
        assert any("/repos/octo/tool" in path for path in fake.paths())


class TestMalformedBodies:
    def test_malformed_rows_are_left_out(self):
        rows = payloads.repositories({"items": [None, {}, {"full_name": 7}, {"full_name": "a/b"}]})

        assert rows == [
            Repository(
                id="",
                full_name="a/b",
                git_provider="github",
                is_public=False,
                stargazers_count=None,
                pushed_at=None,
                owner_type="user",
                main_branch=None,
            )
        ]
        assert payloads.branches([{"name": "a", "commit": None}, {"commit": {}}]) == [
            Branch("a", "", protected=False)
        ]

    def test_task_without_a_repository_or_a_number_is_left_out(self):
        issue = {"number": 1, "title": None, "repository": {"nameWithOwner": "a/b"}}
        nodes = [issue, issue | {"number": "1"}, issue | {"repository": None}, None]

        tasks = payloads.suggested_tasks({"search": {"nodes": nodes}})

        assert tasks == [SuggestedTask("github", "OPEN_ISSUE", "a/b", 1, "")]

    def test_pull_request_of_an_archived_repository_is_no_task(self):
        repository = {"nameWithOwner": "a/b", "isArchived": False}
        pull = {"number": 1, "mergeable": "CONFLICTING", "repository": repository}

        def read_tasks(pull):
            return payloads.suggested_tasks({"viewer": {"pullRequests": {"nodes": [pull]}}})

        assert len(read_tasks(pull)) == 1
        assert read_tasks(pull | {"repository": repository | {"isArchived": True}}) == []

    @pytest.mark.parametrize("body", [None, [], {}, {"content": None}, {"content": "a"}])
    def test_file_without_text_raises_git_host_trouble(self, body):
        with pytest.raises(GitHostTrouble, match="does not contain this file's text"):
            payloads.microagent(body, "a.md")

    @pytest.mark.parametrize("body", [None, [], {}, {"number": "7"}, {"number": True}])
    def test_opened_pull_request_without_a_number_raises_git_host_trouble(self, body):
        with pytest.raises(GitHostTrouble, match="pull request's number"):
            payloads.pull_request(body)


def test_clone_source_has_the_token_and_the_hosts_address(github, fake):
    assert github.clone_source(repository="octo/r") == CloneSource(
        f"{fake.url}/octo/r.git", username="x-access-token", secret=TOKEN
    )


def test_unknown_provider_is_refused():
    with pytest.raises(registry.UnknownProvider):
        registry.get_provider("gitlab", host="", token="x")
