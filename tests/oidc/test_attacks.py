"""Attacks on a sign-in with a provider. After each attack, the test asserts that no session exists."""

import time
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from django.test import Client

from accounts.models import Identity, User, UserSession
from accounts.oidc import providers
from accounts.sign_in import flows
from tests.fakes.oidc_provider import LOGOUT_EVENT, Key
from tests.oidc.conftest import Browser, create_provider

REFUSED_ATTACKS: list[str] = []
SITES = (
    "https://evil.example",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https:evil.example",
    "https:/evil.example",
)
PATHS = (
    "",
    "/",
    "/settings",
    "/%2e%2e/",
    "?next=/",
    "#x",
    "@testserver/",
    ":80/",
    "/\t",
    "\r\nX-Evil: 1",
    ".testserver/",
    "%00",
)


@pytest.fixture(scope="module", autouse=True)
def _print_count():
    yield
    print(f'\n{{"test": "oidc attacks", "refused": {len(REFUSED_ATTACKS)}}}')


def assert_refused(name, browser, response):
    assert response.status_code in (400, 401, 403, 404), (
        name,
        response.status_code,
        response.content,
    )
    assert not browser.is_signed_in, name
    assert not UserSession.objects.filter(provider_session__isnull=False).exists(), name
    REFUSED_ATTACKS.append(name)


class TestState:
    def test_used_state_with_a_new_code_is_refused(self, browser, oidc):
        answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
        assert answer["code"] in oidc.codes  # The code is valid, so only the state decides.
        assert browser.finish(answer).status_code == 302
        browser.client.post("/sign-out")
        UserSession.objects.all().delete()
        second = oidc.authorize(browser.start(), oidc.people["ana"])
        response = browser.finish(second | {"state": answer["state"]})

        assert_refused("state used twice", browser, response)

    def test_used_state_in_a_copied_session_is_refused(self, browser, oidc):
        """Two copies of one cookie race. The database has the state as used when the second one arrives."""
        answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
        states = browser.client.session["oidc_states"]
        assert browser.finish(answer).status_code == 302
        UserSession.objects.all().delete()
        second = Browser(oidc)
        second.client.get("/oidc/acme/sign-in")
        session = second.client.session
        session["oidc_states"] = states
        session.save()

        assert_refused("state of a copied session", second, second.finish(answer))

    def test_state_of_another_browser_is_refused(self, browser, oidc):
        """Login CSRF: the victim's browser opens a callback with the attacker's code and state."""
        answer = oidc.authorize(browser.start(), oidc.add_person("mallory"))
        victim = Browser(oidc)
        victim.start()

        assert_refused("state of another browser", victim, victim.finish(answer))

    @pytest.mark.parametrize(
        "state", ["", "x", "0" * 43, "\u00e9", "a" * 5_000, "https://evil.example", "/settings"]
    )
    def test_invented_state_is_refused(self, browser, oidc, state):
        answer = oidc.authorize(browser.start(), oidc.add_person("ana"))

        assert_refused(f"state {state[:12]!r}", browser, browser.finish(answer | {"state": state}))

    def test_missing_state_is_refused(self, browser, oidc):
        answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
        del answer["state"]

        assert_refused("no state", browser, browser.finish(answer))

    def test_expired_state_is_refused(self, browser, oidc, monkeypatch):
        answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
        monkeypatch.setattr(flows, "FLOW_SECONDS", -1)

        assert_refused("expired state", browser, browser.finish(answer))

    def test_state_of_another_provider_is_refused(self, browser, oidc):
        """Mix-up attack: the flow of one provider is finished at the callback of another."""
        create_provider(oidc, slug="other", name="Other")
        answer = oidc.authorize(browser.start(), oidc.add_person("ana"))

        assert_refused("mix-up", browser, browser.client.get("/oidc/other/callback", answer))


class TestCode:
    def test_used_code_with_a_new_state_is_refused(self, browser, oidc):
        answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
        assert browser.finish(answer).status_code == 302
        UserSession.objects.all().delete()
        victim = Browser(oidc)
        state = parse_qs(urlsplit(victim.start()).query)["state"][0]

        assert_refused(
            "code replay", victim, victim.finish({"code": answer["code"], "state": state})
        )

    def test_stolen_code_in_another_flow_is_refused_by_pkce(self, browser, oidc):
        """The thief's flow has another code verifier than the victim's, so the provider rejects the code."""
        stolen = oidc.authorize(browser.start(), oidc.add_person("ana"))
        thief = Browser(oidc)
        state = parse_qs(urlsplit(thief.start()).query)["state"][0]

        assert_refused("stolen code", thief, thief.finish({"code": stolen["code"], "state": state}))

    @pytest.mark.parametrize("verifier", ["", "x" * 64])
    def test_wrong_code_verifier_is_refused(self, browser, oidc, verifier):
        answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
        session = browser.client.session
        session["oidc_states"][answer["state"]]["code_verifier"] = verifier
        session.save()

        assert_refused(f"verifier {verifier[:3]!r}", browser, browser.finish(answer))

    @pytest.mark.parametrize("parameter", ["code_challenge", "code_challenge_method"])
    def test_request_without_the_challenge_is_refused(self, browser, oidc, parameter):
        url = browser.start()
        query = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items() if k != parameter}
        from urllib.parse import urlencode

        answer = oidc.authorize(
            url.partition("?")[0] + "?" + urlencode(query), oidc.add_person("ana")
        )

        assert_refused(f"without {parameter}", browser, browser.finish(answer))

    def test_code_in_the_query_of_the_password_page_is_not_used(self, browser, oidc, alice):
        """The backend of the library reads code and state from the query of every request."""
        answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
        query = f"/sign-in?code={answer['code']}&state={answer['state']}"
        form = {"email": alice.email, "password": "wrong"}

        response = browser.client.post(query, form)

        assert response.status_code == 422
        assert not browser.is_signed_in
        assert answer["code"] in oidc.codes
        REFUSED_ATTACKS.append("code on the password page")

    @pytest.mark.parametrize("code", ["", "made-up", "a" * 4_000])
    def test_invented_code_is_refused(self, browser, oidc, code):
        answer = oidc.authorize(browser.start(), oidc.add_person("ana"))

        assert_refused(f"code {code[:8]!r}", browser, browser.finish(answer | {"code": code}))


HMAC = "HS256 with the public key as the secret"
BENT = {
    "old nonce": lambda c: c.update(nonce="old"),
    "no nonce": lambda c: c.pop("nonce"),
    "empty nonce": lambda c: c.update(nonce=""),
    "nonce as a list": lambda c: c.update(nonce=[c["nonce"]]),
    "wrong iss": lambda c: c.update(iss="https://evil.example"),
    "iss with a slash": lambda c: c.update(iss=c["iss"] + "/"),
    "no iss": lambda c: c.pop("iss"),
    "iss as a list": lambda c: c.update(iss=[c["iss"]]),
    "wrong aud": lambda c: c.update(aud="other-client"),
    "no aud": lambda c: c.pop("aud"),
    "several aud without azp": lambda c: (c.update(aud=[c["aud"], "other"]), c.pop("azp")),
    "wrong azp": lambda c: c.update(azp="other-client"),
    "several aud, wrong azp": lambda c: c.update(aud=[c["aud"], "other"], azp="other"),
    "expired": lambda c: c.update(exp=c["iat"] - 60),
    "no exp": lambda c: c.pop("exp"),
    "no iat": lambda c: c.pop("iat"),
    "issued in the future": lambda c: c.update(iat=c["iat"] + 3_600, exp=c["iat"] + 7_200),
    "not before the future": lambda c: c.update(nbf=c["iat"] + 3_600),
    "exp as text": lambda c: c.update(exp="tomorrow"),
    "no sub": lambda c: c.pop("sub"),
    "empty sub": lambda c: c.update(sub=""),
    "sub as a number": lambda c: c.update(sub=7),
    "endless sub": lambda c: c.update(sub="s" * 300),
    "sub of another user": lambda c: c.update(sub="sub-of-admin"),
    "logout token": lambda c: c.update(events={LOGOUT_EVENT: {}}),
}


@pytest.mark.parametrize("name", BENT)
def test_id_token_with_a_bad_claim_is_refused(browser, oidc, name):
    person = oidc.add_person("ana")
    oidc.bend = lambda claims: (BENT[name](claims), None)[1]

    assert_refused(name, browser, browser.sign_in(person))


def forge_token(oidc, name, claims):
    good = oidc.keys[0]
    if name == "alg none":
        return jwt.encode(claims, "", algorithm="none", headers={"kid": good.id})
    if name == "alg NONE":
        return jwt.encode(claims, "", algorithm="none").replace(
            "eyJhbGciOiJub25lI", "eyJhbGciOiJOT05FI", 1
        )
    if name == HMAC:
        import hashlib
        import hmac as h

        from jwt.utils import base64url_encode as b64

        head = b64(b'{"alg":"HS256","kid":"%s","typ":"JWT"}' % good.id.encode())
        import json

        body = head + b"." + b64(json.dumps(claims).encode())
        return (body + b"." + b64(h.new(good.public_pem(), body, hashlib.sha256).digest())).decode()
    if name == "HS256 with the client secret":
        return jwt.encode(
            claims, oidc.client_secret.ljust(32, "x"), algorithm="HS256", headers={"kid": good.id}
        )
    if name == "another key under the same id":
        other = Key()
        other.id = good.id
        return oidc.sign(claims, key=other)
    if name == "key of its own header":
        other = Key()
        return oidc.sign(
            claims, key=other, jwk=other.jwk(), jku=f"{oidc.url}/evil", x5u="https://evil.example"
        )
    if name == "unknown key id":
        return oidc.sign(claims, kid="unknown")
    if name == "critical header":
        return oidc.sign(claims, crit=["exp"])
    token = oidc.sign(claims)
    head, body, signature = token.split(".")
    return {
        "changed signature": f"{head}.{body}.{signature[:-4]}AAAA",
        "no signature": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "not a token": "nonsense",
        "empty": "",
        "endless": token + "A" * 40_000,
        "body of another token": f"{head}.{jwt.encode(claims | {'sub': 'x'}, 'k' * 32).split('.')[1]}.{signature}",
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "alg none",
        "alg NONE",
        HMAC,
        "HS256 with the client secret",
        "another key under the same id",
        "key of its own header",
        "unknown key id",
        "critical header",
        "changed signature",
        "no signature",
        "two parts",
        "not a token",
        "empty",
        "endless",
        "body of another token",
    ],
)
def test_id_token_with_a_bad_signature_is_refused(browser, oidc, name):
    person = oidc.add_person("ana")
    oidc.bend = lambda claims: forge_token(oidc, name, claims)

    assert_refused(name, browser, browser.sign_in(person))


def test_id_token_of_an_earlier_flow_is_refused(browser, oidc):
    """A replayed ID token has the nonce of the earlier flow."""
    person, tokens = oidc.add_person("ana"), []
    oidc.bend = lambda claims: tokens.append(oidc.sign(claims)) or tokens[-1]
    assert browser.sign_in(person).status_code == 302
    UserSession.objects.all().delete()
    victim = Browser(oidc)
    oidc.bend = lambda claims: tokens[0]

    assert_refused("id token replay", victim, victim.sign_in(person))


def test_sign_in_without_an_attack_succeeds(browser, oidc):
    """The control of this module: the steps of the attacks, unchanged, sign in."""
    assert browser.sign_in(oidc.add_person("ana")).status_code == 302
    assert browser.is_signed_in


def test_new_signing_key_is_fetched_once(browser, oidc, monkeypatch):
    person = oidc.add_person("ana")
    browser.sign_in(person)
    oidc.rotate_key()
    monkeypatch.setattr(providers, "REFETCH_PAUSE_SECONDS", 0)
    oidc.counts.clear()

    other = Browser(oidc)
    other.sign_in(person)

    assert other.is_signed_in
    assert oidc.counts["certs"] == 1


def test_tokens_with_unknown_keys_cause_no_request_to_the_provider(oidc, provider, client):
    person = oidc.add_person("ana")
    client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {oidc.access_token(person)}"})
    oidc.counts.clear()
    stranger = Key()
    for _ in range(20):
        token = oidc.sign({"iss": oidc.issuer, "sub": "x"}, key=stranger)
        assert (
            client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"}).status_code
            == 401
        )

    assert oidc.counts.get("certs", 0) == 0


class TestRedirects:
    def build_targets(self):
        """Return more than 200 addresses that try to lead to another site."""
        targets = [site + path for site in SITES for path in PATHS]
        targets += [
            f"{scheme}:{rest}"
            for scheme in (
                "javascript",
                "data",
                "vbscript",
                "file",
                "ftp",
                "mailto",
                "about",
                "blob",
            )
            for rest in ("alert(1)", "//evil.example", "/x", "%0aalert(1)")
        ]
        targets += [
            f"http://testserver{rest}"
            for rest in (
                "@evil.example",
                ".evil.example",
                ":80@evil.example",
                "%40evil.example",
                "\\@evil.example",
                "evil.example",
                ":443",
                "%2f@evil.example/",
            )
        ]
        targets += [
            prefix + "evil.example" + end
            for prefix in (
                "///",
                "////",
                "/////",
                "/%09/",
                "/\t/",
                "/\n/",
                "/ /",
                "\t//",
                " //",
                "//\t",
                "/%5c",
                "%2f%2f",
                "/.//",
                "/;//",
                "\\/",
                "/\\/",
                "https:///",
                "https:////",
                "hTTps://",
                "HTTP://",
                "http:\\\\",
                "http:/\\",
                "//%00",
                "//[::1].",
                "//0x7f.1@",
                "〱",
                "／／",
                "/／",
                "//xn--80ak6aa92e.com@",
                "\u2028//",
                "%E2%80%A8//",
                "//evil%E3%80%82",
            )
            for end in ("", "/", "/x")
        ]
        return list(dict.fromkeys(targets))

    def test_confined_target_stays_on_this_site(self, db, rf):
        """Every redirect address passes this function. ``stays_here`` reads the result as a browser does."""
        targets = self.build_targets()
        for target in targets:
            confined = flows.confine_to_site(target)
            assert stays_here(confined), (target, confined)
        assert len(targets) >= 200
        REFUSED_ATTACKS.extend(f"redirect {target!r}" for target in targets)

    def test_sign_in_with_a_target_elsewhere_stays_on_this_site(self, oidc, provider):
        person = oidc.add_person("ana")
        for target in (
            "https://evil.example/",
            "//evil.example",
            "/\\evil.example",
            "javascript:alert(1)",
        ):
            browser = Browser(oidc)
            assert stays_here(read_location(browser.sign_in(person, target=target)))

    def test_state_with_an_address_elsewhere_stays_on_this_site(self, oidc, db):
        create_provider(oidc, slug="keycloak")
        for state in (
            "https://evil.example/",
            "//evil.example",
            "/\\evil.example",
            "http://testserver@evil.example/",
        ):
            response = Client().get("/oauth/keycloak/callback", {"code": "x", "state": state})
            location = response.headers.get("Location", "/")
            assert stays_here(location)
            assert "evil" not in location

    def test_target_on_this_site_is_kept(self):
        for target, expected in (
            ("/settings", "/settings"),
            ("/conversations/1?a=b&c=%2F", "/conversations/1?a=b&c=%2F"),
            ("http://testserver/settings?x=1", "/settings?x=1"),
            ("", "/"),
            (None, "/"),
        ):
            assert flows.confine_to_site(target) == expected


def read_location(response):
    assert response.status_code == 302
    return response.headers["Location"]


def stays_here(location):
    """Return whether a browser stays on this site; it drops tabs and newlines, and reads backslashes as slashes."""
    target = "".join(c for c in location if c not in "\t\r\n").strip().replace("\\", "/")
    return target.startswith("/") and not target.startswith("//")


LOGOUT = {
    "an ID token": {"events": None, "nonce": "n"},
    "no event": {"events": None},
    "another event": {"events": {"https://evil.example": {}}},
    "events as a list": {"events": [LOGOUT_EVENT]},
    "event as a text": {"events": {LOGOUT_EVENT: "x"}},
    "a nonce": {"nonce": "n"},
    "neither sub nor sid": {"sub": None, "sid": None},
    "no jti": {"jti": None},
    "no iat": {"iat": None},
    "no exp": {"exp": None},
    "wrong iss": {"iss": "https://evil.example"},
    "wrong aud": {"aud": "other-client"},
    "no aud": {"aud": None},
    "expired": {"exp": 1_000},
    "old": {"iat": int(time.time()) - 3_600},
    "from the future": {"iat": int(time.time()) + 3_600},
    "sid as a number": {"sid": 7},
    "sub as a list": {"sub": ["sub-of-ana"]},
}


class TestLogoutToken:
    @pytest.fixture
    def signed_in(self, browser, oidc):
        browser.sign_in(oidc.add_person("ana"))
        assert browser.is_signed_in
        return browser

    @pytest.mark.parametrize("name", LOGOUT)
    def test_logout_token_with_a_bad_claim_is_refused(self, signed_in, oidc, name):
        sid = next(iter(oidc.sessions))
        token = oidc.logout_token(**({"sub": "sub-of-ana", "sid": sid} | LOGOUT[name]))

        self.assert_refused(signed_in, f"logout: {name}", token)

    @pytest.mark.parametrize(
        "name",
        [
            "alg none",
            HMAC,
            "another key under the same id",
            "changed signature",
            "not a token",
            "empty",
        ],
    )
    def test_logout_token_with_a_bad_signature_is_refused(self, signed_in, oidc, name):
        claims = jwt.decode(
            oidc.logout_token(sub="sub-of-ana"), options={"verify_signature": False}
        )

        self.assert_refused(signed_in, f"logout: {name}", forge_token(oidc, name, claims))

    def test_used_logout_token_does_not_end_a_new_session(self, signed_in, oidc):
        token = oidc.logout_token(sub="sub-of-ana")
        assert (
            Client().post("/oidc/acme/back-channel-logout", {"logout_token": token}).status_code
            == 200
        )
        second = Browser(oidc)
        second.sign_in(oidc.people["ana"])

        self.assert_refused(second, "logout: replay", token)

    def assert_refused(self, browser, name, token):
        response = Client(enforce_csrf_checks=True).post(
            "/oidc/acme/back-channel-logout", {"logout_token": token}
        )
        assert response.status_code == 400, name
        assert browser.is_signed_in, name
        REFUSED_ATTACKS.append(name)


BEARER = {
    "expired": {"exp": 1_000},
    "no exp": {"exp": None},
    "wrong iss": {"iss": "https://evil.example"},
    "wrong aud": {"aud": "other"},
    "no aud": {"aud": None},
    "wrong azp": {"azp": "other-client"},
    "no azp": {"azp": None},
    "from the future": {"iat": int(time.time()) + 3_600},
    "an ID token": {"typ": "ID"},
    "a refresh token": {"typ": "Refresh"},
    "a logout token": {"events": {LOGOUT_EVENT: {}}},
    "with a nonce": {"nonce": "n"},
    "no sub": {"sub": None},
}


class TestBearer:
    @pytest.mark.parametrize("name", BEARER)
    def test_access_token_with_a_bad_claim_is_refused(self, oidc, provider, client, name):
        person = oidc.add_person("ana")

        self.assert_refused(client, f"bearer: {name}", oidc.access_token(person, **BEARER[name]))

    @pytest.mark.parametrize(
        "name",
        [
            "alg none",
            HMAC,
            "another key under the same id",
            "changed signature",
            "no signature",
            "key of its own header",
            "endless",
        ],
    )
    def test_access_token_with_a_bad_signature_is_refused(self, oidc, provider, client, name):
        person = oidc.add_person("ana")
        claims = jwt.decode(oidc.access_token(person), options={"verify_signature": False})

        self.assert_refused(client, f"bearer: {name}", forge_token(oidc, name, claims))

    def test_access_token_of_a_provider_without_bearer_clients_is_refused(self, oidc, db, client):
        create_provider(oidc, bearer_clients=[])

        self.assert_refused(
            client, "bearer: not allowed", oidc.access_token(oidc.add_person("ana"))
        )

    def test_id_token_as_bearer_token_is_refused(self, browser, oidc, client):
        tokens = []
        oidc.bend = lambda claims: tokens.append(oidc.sign(claims)) or tokens[-1]
        browser.sign_in(oidc.add_person("ana"))

        response = client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {tokens[0]}"})

        assert response.status_code == 401
        REFUSED_ATTACKS.append("bearer: real ID token")

    def assert_refused(self, client, name, token):
        response = client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 401, name
        assert not User.objects.exists()
        assert not Identity.objects.exists()
        REFUSED_ATTACKS.append(name)
