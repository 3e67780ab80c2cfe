"""Access tokens of providers on sockets, and two providers with the same issuer."""

from django.contrib.auth.models import AnonymousUser

from accounts import services
from accounts.models import Identity
from accounts.sign_in.authentication import authenticate_scope
from tests.oidc.conftest import create_provider

URL = "/api/v1/users/me"


def authenticate(token):
    return authenticate_scope({"headers": [(b"authorization", f"Bearer {token}".encode())]})


def test_access_token_of_a_socket_is_its_user(oidc, provider):
    token = oidc.access_token(oidc.add_person("ana"))

    assert authenticate(token).email == "ana@example.org"


def test_access_token_of_a_suspended_user_is_anonymous(oidc, provider):
    token = oidc.access_token(oidc.add_person("ana"))
    services.suspend_user(user=authenticate(token))

    assert authenticate(token) == AnonymousUser()


def test_access_token_of_a_socket_is_anonymous_while_no_key_can_be_fetched(oidc, provider):
    token = oidc.access_token(oidc.add_person("ana"))
    oidc.is_down = True

    assert authenticate(token) == AnonymousUser()


def test_second_provider_with_the_same_issuer_accepts_its_own_client(oidc, provider, client):
    create_provider(oidc, slug="second", name="Second", bearer_clients=["app"])
    person = oidc.add_person("ana")

    statuses = [
        client.get(
            URL, headers={"Authorization": f"Bearer {oidc.access_token(person, azp=azp)}"}
        ).status_code
        for azp in ("cli", "app", "unknown")
    ]

    assert statuses == [200, 200, 401]
    assert Identity.objects.count() == 1


def test_token_of_an_unknown_issuer_is_401(oidc, provider, client):
    token = oidc.access_token(oidc.add_person("ana"), iss="https://id.example.com")

    response = client.get(URL, headers={"Authorization": f"Bearer {token}"})

    assert response.status_code == 401
    assert (
        response.json()["detail"]
        == "This access token is not valid. Request a new token from the identity provider."
    )


def test_token_of_a_disabled_provider_is_401(oidc, provider, client):
    token = oidc.access_token(oidc.add_person("ana"))
    headers = {"Authorization": f"Bearer {token}"}
    assert client.get(URL, headers=headers).status_code == 200
    provider.is_enabled = False
    provider.save()

    assert client.get(URL, headers=headers).status_code == 401
