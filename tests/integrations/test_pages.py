"""Connecting GitHub on its page."""

from accounts.models import ProviderToken
from tests.fakes.github import LOGIN, TOKEN

PAGE = "/settings/git-hosts"


def test_connect_and_disconnect(client, alice, fake):
    client.force_login(alice)

    made = client.post(PAGE, {"intent": "connect", "token": TOKEN, "host": fake.host}, follow=True)
    assert f"GitHub is connected as {LOGIN}." in made.content.decode()
    assert TOKEN not in made.content.decode()
    assert fake.host in made.content.decode()

    gone = client.post(PAGE, {"intent": "disconnect"}, follow=True)
    assert "the token is deleted" in gone.content.decode()
    assert not ProviderToken.objects.exists()


def test_a_refused_token_says_so_and_is_not_echoed(client, alice, fake):
    client.force_login(alice)
    answer = client.post(PAGE, {"intent": "connect", "token": "ghp_no", "host": fake.host})
    assert answer.status_code == 409
    assert "rejected this token" in answer.content.decode()
    assert "ghp_no" not in answer.content.decode()
