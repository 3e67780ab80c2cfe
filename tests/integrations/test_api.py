"""Reading a Git host through ``/api/v1/integrations`` and through the routes of OpenHands' clients."""

import pytest

from conversations import services as conversations
from integrations.services import git_hosts
from tests.conftest import key_client
from tests.fakes.github import LOGIN, exhausted

V1 = "/api/v1/integrations/github"
USER = "/api/user"


@pytest.fixture
def repo(fake):
    return fake.add(
        "octo/r",
        {".openhands/microagents/flask.md": "---\ntriggers: [flask]\n---\nText\n"},
        branches=("fix", "next"),
        stars=3,
    )


def repository_record(repo, **more):
    return {
        "id": str(repo.id),
        "full_name": "octo/r",
        "git_provider": "github",
        "is_public": False,
        "stargazers_count": 3,
        "pushed_at": "2026-11-20T10:00:00Z",
        "owner_type": "user",
        "main_branch": "main",
    } | more


class TestV1Routes:
    def test_user_and_installations_of_the_git_host_are_returned(self, api, connected, fake):
        fake.add("acme/x")
        assert api.get(f"{V1}/user").json() == {
            "id": "583231",
            "login": LOGIN,
            "avatar_url": f"{fake.url}/avatars/583231",
            "company": None,
            "name": "Octo Cat",
            "email": None,
        }
        assert api.get(f"{V1}/installations").json() == {"items": [LOGIN, "acme"], "next": None}

    def test_repositories_are_paged_and_searched(self, api, connected, fake, repo):
        fake.add("octo/second")

        first = api.get(f"{V1}/repositories?limit=1").json()
        second = api.get(f"{V1}/repositories?limit=1&cursor={first['next']}").json()

        assert first == {"items": [repository_record(repo)], "next": "2"}
        assert [row["full_name"] for row in second["items"]] == ["octo/second"]
        assert second["next"] is None
        assert api.get(f"{V1}/repositories?q=octo/r").json() == {
            "items": [repository_record(repo)],
            "next": None,
        }

    def test_branches_are_paged_and_searched(self, api, connected, repo):
        page = api.get(f"{V1}/branches?repository=octo/r&limit=2").json()
        matches = api.get(f"{V1}/branches?repository=octo/r&q=ne").json()

        assert [row["name"] for row in page["items"]] == ["fix", "main"]
        assert page["next"] == "2"
        assert [row["name"] for row in matches["items"]] == ["next"]

    def test_suggested_tasks_and_microagents_are_returned(self, api, connected, repo):
        repo.issues = [{"number": 9, "title": "bug"}]
        path = ".openhands/microagents/flask.md"

        assert api.get(f"{V1}/suggested-tasks").json()["items"] == [
            {
                "git_provider": "github",
                "task_type": "OPEN_ISSUE",
                "repo": "octo/r",
                "issue_number": 9,
                "title": "bug",
            }
        ]
        assert api.get(f"{V1}/microagents?repository=octo/r").json()["items"] == [
            {"name": "flask", "path": path, "created_at": "2026-11-19T08:00:00Z"}
        ]
        assert api.get(f"{V1}/microagents/content?repository=octo/r&path={path}").json() == {
            "content": "---\ntriggers: [flask]\n---\nText\n",
            "path": path,
            "triggers": ["flask"],
            "git_provider": "github",
        }

    def test_pull_request_number_is_stored_in_its_conversation(self, api, alice, connected, repo):
        conversation = conversations.create_conversation(user=alice, title="Work")
        body = {
            "repository": "octo/r",
            "source_branch": "fix",
            "target_branch": "main",
            "title": "Fix it",
            "conversation": str(conversation.pk),
        }

        created = api.post(f"{V1}/pull-requests", body, format="json")
        repeated = api.post(f"{V1}/pull-requests", body, format="json")

        assert created.status_code == 201
        assert created.json()["number"] == 7
        assert repo.pulls[0]["draft"] is True
        assert (repeated.status_code, repeated.json()["code"]) == (422, "git-host-refused")
        conversation.refresh_from_db()
        assert conversation.pull_requests == [7]

    def test_pull_request_is_recorded_with_its_audit_entry_or_not_at_all(
        self, alice, connected, repo, monkeypatch
    ):
        def fail(**_):
            raise RuntimeError("the database is down")

        conversation = conversations.create_conversation(user=alice, title="Work")
        monkeypatch.setattr(git_hosts.audit, "record", fail)

        with pytest.raises(RuntimeError):
            git_hosts.open_pull_request(
                user=alice,
                organization=alice.personal_organization,
                provider_name="github",
                repository_name="octo/r",
                source_branch="fix",
                target_branch="main",
                title="Fix it",
                conversation=conversation,
            )

        assert len(repo.pulls) == 1
        conversation.refresh_from_db()
        assert conversation.pull_requests == []

    def test_pull_request_for_another_users_conversation_is_404_and_not_opened(
        self, api, charlie, connected, repo
    ):
        foreign = conversations.create_conversation(user=charlie, title="Private")
        body = {
            "repository": "octo/r",
            "source_branch": "fix",
            "target_branch": "main",
            "title": "x",
        }
        response = api.post(
            f"{V1}/pull-requests", body | {"conversation": str(foreign.pk)}, format="json"
        )
        assert response.status_code == 404
        assert repo.pulls == []

    def test_unconnected_unknown_and_invalid_requests_are_refused(self, api, alice, fake):
        assert api.get(f"{V1}/user").json()["code"] == "provider-not-connected"
        assert api.get("/api/v1/integrations/gitlab/user").json()["code"] == "unknown-provider"
        assert api.get(f"{V1}/branches").status_code == 400
        assert api.get(f"{V1}/repositories?cursor=x").status_code == 400
        assert api.get(f"{V1}/repositories?sort=size").status_code == 400
        key = key_client(alice, scopes=["integrations.view"])
        assert key.post(f"{V1}/pull-requests", {}, format="json").status_code == 403


class TestOpenHandsRoutes:
    def test_user_repositories_and_search_have_openhands_bodies(self, api, connected, fake, repo):
        fake.add("octo/second")

        info = api.get(f"{USER}/info").json()
        page = api.get(
            f"{USER}/repositories?selected_provider=github&sort=pushed&page=1&per_page=1"
        )
        matches = api.get(f"{USER}/search/repositories?query=r&per_page=5&selected_provider=github")

        assert set(info) == {"id", "login", "avatar_url", "company", "name", "email"}
        [row] = page.json()
        assert 'page=2&per_page=1>; rel="next"' in row["link_header"]
        assert row == repository_record(repo, link_header=row["link_header"])
        assert matches.json()[0] == repository_record(repo, link_header=None)
        assert api.get(f"{USER}/installations?provider=github").json() == [LOGIN]

    @pytest.mark.parametrize(
        "query",
        ["", "?selected_provider=github", "?page=&per_page=x", "?page=-1&per_page=0", "?page=²"],
    )
    def test_missing_or_invalid_page_is_the_first(self, api, connected, repo, query):
        response = api.get(f"{USER}/repositories{query}")
        assert [row["full_name"] for row in response.json()] == ["octo/r"]

    def test_branches_and_branch_search_have_openhands_bodies(self, api, connected, repo):
        page = api.get(f"{USER}/repository/branches?repository=octo/r&page=1&per_page=2").json()
        matches = api.get(f"{USER}/search/branches?repository=octo/r&query=ne&per_page=30").json()

        names = [row.pop("name") for row in page["branches"]]
        assert names == ["fix", "main"]
        sha = page["branches"][0]["commit_sha"]
        assert page == {
            "branches": [
                {"commit_sha": sha, "protected": False, "last_push_date": None},
                {"commit_sha": sha, "protected": True, "last_push_date": None},
            ],
            "has_next_page": True,
            "current_page": 1,
            "per_page": 2,
            "total_count": None,
        }
        assert [row["name"] for row in matches] == ["next"]

    def test_suggested_tasks_and_microagents_have_openhands_bodies(self, api, connected, repo):
        repo.issues = [{"number": 9, "title": "bug"}]
        file_path = ".openhands/microagents/flask.md"

        assert [task["task_type"] for task in api.get(f"{USER}/suggested-tasks").json()] == [
            "OPEN_ISSUE"
        ]
        path = f"{USER}/repository/octo/r/microagents"
        assert [row["path"] for row in api.get(path).json()] == [file_path]
        assert api.get(f"{path}/content?file_path={file_path}").json()["triggers"] == ["flask"]

    def test_user_without_a_git_host_gets_empty_lists(self, api, alice):
        for path in (
            "installations?provider=github",
            "repositories",
            "search/repositories?query=x",
            "search/branches?repository=a/b&query=x",
            "suggested-tasks",
            "repository/a/b/microagents",
        ):
            response = api.get(f"{USER}/{path}")
            assert (response.status_code, response.json()) == (200, []), path
        assert api.get(f"{USER}/repository/branches?repository=a/b").json()["branches"] == []
        assert api.get(f"{USER}/info").json() == {
            "id": str(alice.pk),
            "login": "alice",
            "avatar_url": "",
            "company": None,
            "name": alice.name,
            "email": alice.email,
        }

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("installations?provider=nothing", 400),
            ("installations", 400),
            ("repositories?selected_provider=nothing", 400),
            ("search/branches?query=x", 400),
            ("repository/branches", 400),
            ("repository/branches?repository=octo/none", 404),
            ("repository/octo/none/microagents", 404),
            ("repository/octo/r/microagents/content", 400),
        ],
    )
    def test_invalid_request_is_refused_with_a_sentence(self, api, connected, repo, path, status):
        response = api.get(f"{USER}/{path}")
        assert response.status_code == status
        assert response.json()["error"]

    def test_unreachable_host_gives_no_suggested_tasks_and_503_for_repositories(
        self, api, connected, fake
    ):
        fake.trouble = exhausted
        assert api.get(f"{USER}/suggested-tasks").json() == []
        assert api.get(f"{USER}/repositories").status_code == 503

    def test_token_refused_by_the_host_is_409(self, api, connected, fake):
        fake.trouble = lambda _: (401, {}, {"message": "Bad credentials"})
        response = api.get(f"{USER}/info")
        assert response.status_code == 409
        assert "rejected this token" in response.json()["error"]

    def test_anonymous_caller_is_401(self, client, db):
        assert client.get(f"{USER}/info").status_code == 401


def test_page_number_with_thousands_of_digits_is_the_first_page(api, connected, repo):
    response = api.get(f"{USER}/repositories", {"page": "9" * 5_000})

    assert (response.status_code, len(response.json())) == (200, 1)
