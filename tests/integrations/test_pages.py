"""The settings page on which a user connects GitHub."""

from accounts.models import ProviderToken
from tests.fakes.github import LOGIN, TOKEN

PAGE = "/settings/git-hosts"


def test_github_is_connected_and_disconnected_on_the_page(client, alice, fake):
    client.force_login(alice)

    connected = client.post(
        PAGE, {"intent": "connect", "token": TOKEN, "host": fake.host}, follow=True
    )
    assert f"GitHub is connected as {LOGIN}." in connected.content.decode()
    assert TOKEN not in connected.content.decode()
    assert fake.host in connected.content.decode()

    disconnected = client.post(PAGE, {"intent": "disconnect"}, follow=True)
    assert "the token is deleted" in disconnected.content.decode()
    assert not ProviderToken.objects.exists()


def test_refused_token_shows_the_error_and_not_the_token(client, alice, fake):
    client.force_login(alice)
    response = client.post(PAGE, {"intent": "connect", "token": "ghp_no", "host": fake.host})
    assert response.status_code == 409
    assert "rejected this token" in response.content.decode()
    assert "ghp_no" not in response.content.decode()
