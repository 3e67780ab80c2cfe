"""The behaviour of mozilla-django-oidc because of which ``accounts/oidc`` replaces parts of it (ADR 5).

If a test fails after an upgrade, the library has this check now, and its replacement in
``accounts/oidc`` can be removed.
"""

import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from django.contrib.sessions.backends.cache import SessionStore
from mozilla_django_oidc.auth import OIDCAuthenticationBackend
from mozilla_django_oidc.views import OIDCAuthenticationRequestView


@pytest.fixture
def key(settings):
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    settings.OIDC_OP_AUTHORIZATION_ENDPOINT = "https://id.example/authorize"
    settings.OIDC_OP_TOKEN_ENDPOINT = "https://id.example/token"
    settings.OIDC_OP_USER_ENDPOINT = "https://id.example/userinfo"
    settings.OIDC_RP_CLIENT_ID = "agents"
    settings.OIDC_RP_CLIENT_SECRET = "secret"
    settings.OIDC_RP_SIGN_ALGO = "RS256"
    settings.OIDC_RP_IDP_SIGN_KEY = private.public_key()
    settings.OIDC_AUTHENTICATION_CALLBACK_URL = "home"
    return private


def sign_token(key, **claims):
    standard = {"iss": "https://id.example", "aud": "agents", "exp": time.time() + 60, "nonce": "n"}
    return jwt.encode(standard | claims, key, algorithm="RS256")


@pytest.mark.parametrize(
    "claims", [{"aud": "another-client"}, {"iss": "https://another.example"}], ids=str
)
def test_library_accepts_a_token_of_another_client_or_issuer(key, claims):
    payload = OIDCAuthenticationBackend().verify_token(sign_token(key, **claims), nonce="n")

    assert claims.items() <= payload.items()


def test_library_raises_an_uncaught_error_for_an_expired_token(key):
    with pytest.raises(jwt.ExpiredSignatureError):
        OIDCAuthenticationBackend().verify_token(sign_token(key, exp=time.time() - 60), nonce="n")


def test_library_matches_users_by_email_address_only(key, alice):
    claims = {"sub": "sub-of-mallory", "email": alice.email}

    assert list(OIDCAuthenticationBackend().filter_users_by_claims(claims)) == [alice]


def test_library_stores_one_destination_for_all_sign_ins_of_a_browser(key, rf, db):
    session = SessionStore()
    for destination in ("/first", "/second"):
        request = rf.get("/", {"next": destination})
        request.session = session
        OIDCAuthenticationRequestView.as_view()(request)

    assert len(session["oidc_states"]) == 2
    assert session["oidc_login_next"] == "/second"
