"""The model servers on this machine on the model pages, and the permission to use them."""

import json

import pytest
from asgiref.sync import sync_to_async
from rest_framework.test import APIClient

from accounts.models import AuditEntry, Membership
from accounts.services import organizations
from billing import services
from billing.gateway import conversion, local_servers
from billing.models import AllowedModelServer, ModelAccess
from lib import url_guard
from tests.billing.conftest import CHAT, bearer, chat, issue_token, parse_stream
from tests.fakes.ollama import FakeOllama

PAGE = "/settings/model"
SERVERS = "/settings/model/servers"
MODEL = "qwen3-coder:30b"


@pytest.fixture
def ollama(settings, monkeypatch):
    """An Ollama at the only port at which this server looks. A search has more time, for loaded machines."""
    monkeypatch.setattr(local_servers, "TOTAL_SECONDS", 10)
    with FakeOllama(context_length=131_072) as server:
        settings.MODEL_SERVER_PORTS = [server.port]
        settings.UPSTREAM_ALLOW_PRIVATE = "allowed"
        yield server


@pytest.fixture
def administrator(alice):
    alice.is_staff = alice.is_superuser = True
    alice.save()
    return alice


@pytest.fixture
def desk(client, administrator):
    """A browser of the administrator."""
    client.force_login(administrator)
    return client


@pytest.fixture
def member(charlie, client_class):
    browser = client_class()
    browser.force_login(charlie)
    return browser


@pytest.fixture
def client_class(client):
    return type(client)


def use(browser, ollama, model=MODEL, **more):
    data = {"action": "use", "port": ollama.port, "model": model} | more
    return browser.post(SERVERS, data, follow=True)


def act(browser, ollama, action):
    return browser.post(SERVERS, {"action": action, "port": ollama.port}, follow=True)


class TestAdministrator:
    def test_page_opens_without_a_request_and_the_part_shows_what_was_found(self, desk, ollama):
        page = desk.get(PAGE).text
        assert "Look for model servers" in page
        assert ollama.paths == []

        part = desk.get(SERVERS).text

        assert "Ollama 0.12.6" in part
        assert f"127.0.0.1:{ollama.port}" in part
        assert "30.5B parameters · 18.6 GB" in part
        assert f'aria-label="Use {MODEL}"' in part
        assert "It only computes embeddings." in part
        assert 'aria-label="Use nomic' not in part

    def test_page_looks_for_servers_without_javascript(self, desk, ollama):
        assert f'aria-label="Use {MODEL}"' in desk.get(PAGE, {"look": "1"}).text

    def test_one_click_tests_the_model_and_uses_it(self, desk, ollama, administrator):
        page = use(desk, ollama)

        assert f"Conversations use {MODEL} of Ollama 0.12.6 from now on." in page.text
        assert f"{MODEL} answered in " in page.text
        access = ModelAccess.objects.get()
        assert (access.user, access.model) == (administrator, MODEL)
        assert access.base_url == f"http://127.0.0.1:{ollama.port}/v1"
        assert [bool(r["body"].get("tools")) for r in ollama.requests] == [True, False]
        assert "In use" in desk.get(SERVERS).text

    def test_short_context_is_a_warning_that_says_what_to_set(self, desk, ollama):
        ollama.context_length = 4096
        page = use(desk, ollama)

        assert "The context of the model has 4,096 tokens" in page.text
        assert "Set OLLAMA_CONTEXT_LENGTH=64000" in page.text
        assert "context of 4,096 tokens" in desk.get(SERVERS).text

    def test_model_that_fails_the_test_replaces_nothing(self, desk, ollama, administrator):
        ollama.raw = (400, "application/json", b'{"error": {"message": "no tools"}}')
        services.save_model_access(
            organization=administrator.personal_organization,
            user=administrator,
            base_url="https://models.example.com/v1",
            model="good",
            api_key="sk-kept-1234",
        )

        page = use(desk, ollama)

        assert "no tools" in page.text
        assert "The model was not changed." in page.text
        assert ModelAccess.objects.get().api_key() == "sk-kept-1234"

    def test_confirmation_names_the_key_that_is_deleted(self, desk, ollama, administrator):
        services.save_model_access(
            organization=administrator.personal_organization,
            user=administrator,
            base_url="https://models.example.com/v1",
            model="good",
            api_key="sk-kept-1234",
        )

        assert "The stored API key of https://models.example.com/v1 is deleted." in (
            desk.get(SERVERS).text
        )

    @pytest.mark.parametrize(
        "data",
        [
            {"model": "absent"},
            {"model": "nomic-embed-text:latest"},
            {"port": "22"},
            {"port": "0"},
            {"port": "x"},
            {"port": "99999999999"},
            {"model": "a\0b"},
            {"action": "steal"},
            {"action": ""},
        ],
    )
    def test_only_a_found_model_can_be_used(self, desk, ollama, data):
        page = desk.post(
            SERVERS, {"action": "use", "port": ollama.port, "model": MODEL} | data, follow=True
        )

        assert "Check that it is running" in page.text
        assert not ModelAccess.objects.exists()

    def test_nothing_found_says_where_it_looked_and_what_to_do(self, desk, ollama, settings):
        settings.MODEL_SERVER_PORTS = [1]
        part = desk.get(SERVERS).text

        assert "No model server answers at the usual ports of this machine: 1." in part

    def test_refused_private_addresses_are_explained_and_nothing_is_asked(
        self, desk, ollama, settings
    ):
        settings.UPSTREAM_ALLOW_PRIVATE = False
        part = desk.get(SERVERS).text

        assert "UPSTREAM_ALLOW_PRIVATE=allowed" in part
        use(desk, ollama)
        assert ollama.paths == []

    def test_organization_lends_the_model_with_one_click(
        self, desk, ollama, administrator, charlie
    ):
        team = organizations.create_organization(user=administrator, name="Team")
        Membership.objects.create(organization=team, user=charlie)
        page = f"{PAGE}/{team.pk}"
        part = desk.get(SERVERS, {"organization": team.pk}).text
        assert f'aria-label="Lend {MODEL}"' in part

        response = use(desk, ollama, organization=team.pk)

        assert response.request["PATH_INFO"] == page
        assert f"Team lends {MODEL}" in response.text
        access = ModelAccess.objects.get()
        assert (access.organization, access.user) == (team, None)
        assert services.find_reach_of(access) == url_guard.LOOPBACK
        assert AllowedModelServer.objects.get().port == ollama.port


class TestMember:
    def test_member_sees_no_servers_and_causes_no_request(self, member, administrator, ollama):
        assert "Model servers on this machine" not in member.get(PAGE).text
        assert member.get(SERVERS).text.strip() == ""
        use(member, ollama)
        act(member, ollama, "allow")

        assert ollama.paths == []
        assert not AllowedModelServer.objects.exists()

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_member_cannot_enter_the_address_either(self, member, administrator, ollama, host):
        form = {"base_url": f"http://{host}:{ollama.port}/v1", "model": MODEL}
        page = member.post(PAGE, form)

        assert page.status_code == 400
        assert "is not open to all users. An administrator of this server can allow it" in page.text
        assert not ModelAccess.objects.exists()

    def test_owner_of_an_organization_is_no_administrator(
        self, member, administrator, charlie, ollama
    ):
        team = organizations.create_organization(user=charlie, name="Team")
        form = {"base_url": f"http://127.0.0.1:{ollama.port}/v1", "model": MODEL}
        page = member.post(f"{PAGE}/{team.pk}", form)

        assert page.status_code == 400
        assert "is not open to all users" in page.text

    @pytest.mark.django_db(
        transaction=True
    )  # the call of the test reads the permission in a thread
    def test_member_uses_an_allowed_server_with_one_click_until_it_is_closed_again(
        self, desk, member, charlie, ollama
    ):
        assert "All users may now use Ollama 0.12.6" in act(desk, ollama, "allow").text
        part = member.get(SERVERS).text
        assert f'aria-label="Use {MODEL}"' in part
        assert "Allow it" not in part
        assert f"Conversations use {MODEL}" in use(member, ollama).text
        access = ModelAccess.objects.get(user=charlie)
        assert services.find_reach_of(access) == url_guard.LOOPBACK

        act(desk, ollama, "disallow")

        assert services.find_reach_of(access) is None
        actions = AuditEntry.objects.filter(action__startswith="model_server.")
        assert [entry.action for entry in actions.order_by("position")] == [
            "model_server.allowed",
            "model_server.disallowed",
        ]

    def test_allowed_server_opens_its_port_and_nothing_else(self, desk, charlie, ollama):
        act(desk, ollama, "allow")

        for url in (
            f"http://127.0.0.1:{ollama.port + 1}/v1",
            f"http://127.0.0.2:{ollama.port}/v1",
            f"http://10.0.0.1:{ollama.port}/v1",
            f"http://model.localhost:{ollama.port}/v1",
            f"http://0x7f000001:{ollama.port}/v1",
        ):
            with pytest.raises(services.InvalidModelAccess):
                services.save_model_access(
                    organization=charlie.personal_organization,
                    user=charlie,
                    base_url=url,
                    model="m",
                )

    def test_allowing_needs_the_second_factor_of_the_admin_site(self, desk, ollama, settings):
        settings.STAFF_SECOND_FACTOR = True
        page = act(desk, ollama, "allow")

        assert "needs a second factor, like the admin site" in page.text
        assert not AllowedModelServer.objects.exists()
        assert f"Conversations use {MODEL}" in use(desk, ollama).text

    def test_silent_allowed_server_can_be_closed(self, desk, ollama):
        services.allow_model_server(port=1, name="vLLM", by=None)
        assert "vLLM at port 1, which does not answer now" in desk.get(SERVERS).text

        desk.post(SERVERS, {"action": "disallow", "port": 1})

        assert not AllowedModelServer.objects.exists()

    def test_staff_without_the_permission_are_members(self, member, charlie, administrator, ollama):
        charlie.is_staff = True
        charlie.save()

        assert member.get(SERVERS).text.strip() == ""

    def test_one_person_needs_no_permission_and_a_second_one_does(
        self, alice, ollama, settings, charlie
    ):
        settings.UPSTREAM_ALLOW_PRIVATE = "single-user"
        charlie.is_active = False
        charlie.save()
        save = {
            "organization": alice.personal_organization,
            "base_url": f"http://127.0.0.1:{ollama.port}/v1",
            "model": MODEL,
        }
        access = services.save_model_access(user=alice, **save)

        charlie.is_active = True
        charlie.save()

        assert services.explain_missing_permission(access.base_url)
        with pytest.raises(services.InvalidModelAccess, match="not open to all users"):
            services.save_model_access(user=alice, **save)
        alice.is_staff = alice.is_superuser = True
        alice.save()
        assert services.find_reach_of(ModelAccess.objects.get()) == url_guard.LOOPBACK


@pytest.mark.django_db(transaction=True)
class TestGateway:
    """Each call checks the permission again."""

    @pytest.fixture
    def tokens(self, alice, charlie, conversation_id, ollama, settings):
        """Gateway tokens of an administrator and of a member who both set the server before it needed permission."""
        settings.UPSTREAM_ALLOW_PRIVATE = True
        for user in (alice, charlie):
            services.save_model_access(
                organization=user.personal_organization,
                user=user,
                base_url=f"http://localhost:{ollama.port}/v1",
                model=MODEL,
            )
        alice.is_staff = alice.is_superuser = True
        alice.save()
        settings.UPSTREAM_ALLOW_PRIVATE = "single-user"
        return [issue_token(user, conversation_id) for user in (alice, charlie)]

    async def test_administrator_is_served_and_member_only_with_permission(
        self, live, tokens, ollama
    ):
        request = chat("!run echo from ollama", stream=True)
        of_administrator, of_member = tokens

        served = await live.post(CHAT, json=request, headers=bearer(of_administrator))
        refused = await live.post(CHAT, json=request, headers=bearer(of_member))
        await sync_to_async(services.allow_model_server)(port=ollama.port, name="Ollama", by=None)
        allowed = await live.post(CHAT, json=request, headers=bearer(of_member))

        for response in (served, allowed):
            message = conversion.join_chunks(parse_stream(response.content))["choices"][0][
                "message"
            ]
            (call,) = message["tool_calls"]
            assert call["function"]["name"] == "terminal"
            assert json.loads(call["function"]["arguments"])["command"] == "echo from ollama"
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["code"] == "upstream_address_refused"
        assert "An administrator of this server can allow it" in error["message"]
        assert len(ollama.requests) == 2


def test_api_refuses_a_member_with_the_same_sentence(charlie, administrator, ollama):
    api = APIClient()
    api.force_authenticate(charlie)
    body = {"base_url": f"http://127.0.0.1:{ollama.port}/v1", "model": MODEL}
    response = api.put("/api/v1/settings/model-access", body, format="json")

    assert response.status_code == 400
    assert "is not open to all users" in response.json()["detail"]
