"""Everything that must not sign anybody in. Each attack is followed by the question whether it did."""

import time
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from django.test import Client

from accounts.models import Identity, User, UserSession
from accounts.oidc import providers
from accounts.sign_in import flows
from tests.fakes.oidc_provider import LOGOUT_EVENT, Key
from tests.oidc.conftest import Browser, make_row

REFUSED: list[str] = []
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
def _count():
    yield
    print(f'\n{{"test": "oidc attacks", "refused": {len(REFUSED)}}}')


def refuse(name, browser, response):
    assert response.status_code in (400, 401, 403, 404), (
        name,
        response.status_code,
        response.content,
    )
    assert not browser.is_signed_in, name
    assert not UserSession.objects.filter(provider_session__isnull=False).exists(), name
    REFUSED.append(name)


class TestState:
    def test_used_twice(self, browser, oidc):
        answer = oidc.authorize(browser.leave(), oidc.add_person("ana"))
        oidc.codes[answer["code"]]  # the code is good; only the state decides
        assert browser.come_back(answer).status_code == 302
        browser.client.post("/sign-out")
        UserSession.objects.all().delete()
        again = oidc.authorize(browser.leave(), oidc.people["ana"])

        refuse("state used twice", browser, browser.come_back(again | {"state": answer["state"]}))

    def test_used_twice_with_a_copy_of_the_session(self, browser, oidc):
        """Two copies of one cookie race; the second finds the state spent in the database."""
        answer = oidc.authorize(browser.leave(), oidc.add_person("ana"))
        kept = dict(browser.client.session.items())
        assert browser.come_back(answer).status_code == 302
        UserSession.objects.all().delete()
        second = Browser(oidc)
        second.client.get("/oidc/acme/sign-in")
        session = second.client.session
        session["oidc_states"] = kept["oidc_states"]
        session.save()

        refuse("state of a copied session", second, second.come_back(answer))

    def test_of_another_browser(self, browser, oidc):
        """Login CSRF: the attacker's own code and state in the victim's browser."""
        answer = oidc.authorize(browser.leave(), oidc.add_person("mallory"))
        victim = Browser(oidc)
        victim.leave()

        refuse("state of another browser", victim, victim.come_back(answer))

    @pytest.mark.parametrize(
        "state", ["", "x", "0" * 43, "\u00e9", "a" * 5_000, "https://evil.example", "/settings"]
    )
    def test_made_up(self, browser, oidc, state):
        answer = oidc.authorize(browser.leave(), oidc.add_person("ana"))

        refuse(f"state {state[:12]!r}", browser, browser.come_back(answer | {"state": state}))

    def test_missing(self, browser, oidc):
        answer = oidc.authorize(browser.leave(), oidc.add_person("ana"))
        del answer["state"]

        refuse("no state", browser, browser.come_back(answer))

    def test_too_old(self, browser, oidc, monkeypatch):
        answer = oidc.authorize(browser.leave(), oidc.add_person("ana"))
        monkeypatch.setattr(flows, "FLOW_SECONDS", -1)

        refuse("state of yesterday", browser, browser.come_back(answer))

    def test_of_another_provider(self, browser, oidc):
        """Mix-up: the flow of one provider is finished at the address of another."""
        make_row(oidc, slug="other", name="Other")
        answer = oidc.authorize(browser.leave(), oidc.add_person("ana"))

        refuse("mix-up", browser, browser.client.get("/oidc/other/callback", answer))


class TestCode:
    def test_replayed_with_a_new_state(self, browser, oidc):
        answer = oidc.authorize(browser.leave(), oidc.add_person("ana"))
        assert browser.come_back(answer).status_code == 302
        UserSession.objects.all().delete()
        victim = Browser(oidc)
        state = parse_qs(urlsplit(victim.leave()).query)["state"][0]

        refuse("code replay", victim, victim.come_back({"code": answer["code"], "state": state}))

    def test_injected_from_another_flow_fails_by_pkce(self, browser, oidc):
        """A stolen, unused code in the thief's own flow: their verifier is not the victim's."""
        stolen = oidc.authorize(browser.leave(), oidc.add_person("ana"))
        thief = Browser(oidc)
        state = parse_qs(urlsplit(thief.leave()).query)["state"][0]

        refuse("stolen code", thief, thief.come_back({"code": stolen["code"], "state": state}))

    @pytest.mark.parametrize("verifier", ["", "x" * 64])
    def test_wrong_verifier(self, browser, oidc, verifier):
        answer = oidc.authorize(browser.leave(), oidc.add_person("ana"))
        session = browser.client.session
        session["oidc_states"][answer["state"]]["code_verifier"] = verifier
        session.save()

        refuse(f"verifier {verifier[:3]!r}", browser, browser.come_back(answer))

    @pytest.mark.parametrize("taken_out", ["code_challenge", "code_challenge_method"])
    def test_challenge_taken_out_of_the_request(self, browser, oidc, taken_out):
        url = browser.leave()
        query = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items() if k != taken_out}
        from urllib.parse import urlencode

        answer = oidc.authorize(
            url.partition("?")[0] + "?" + urlencode(query), oidc.add_person("ana")
        )

        refuse(f"without {taken_out}", browser, browser.come_back(answer))

    def test_in_the_query_of_the_password_page(self, browser, oidc, alice):
        """The library's backend would take code and state from the query of any request."""
        answer = oidc.authorize(browser.leave(), oidc.add_person("ana"))
        query = f"/sign-in?code={answer['code']}&state={answer['state']}"
        form = {"email": alice.email, "password": "wrong"}

        response = browser.client.post(query, form)

        assert response.status_code == 422
        assert not browser.is_signed_in
        assert answer["code"] in oidc.codes
        REFUSED.append("code on the password page")

    @pytest.mark.parametrize("code", ["", "made-up", "a" * 4_000])
    def test_made_up(self, browser, oidc, code):
        answer = oidc.authorize(browser.leave(), oidc.add_person("ana"))

        refuse(f"code {code[:8]!r}", browser, browser.come_back(answer | {"code": code}))


HMAC = "HS256 with the public key as the secret"
BENT = {
    "nonce of before": lambda c: c.update(nonce="old"),
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
    "sub of somebody else": lambda c: c.update(sub="sub-of-admin"),
    "logout token": lambda c: c.update(events={LOGOUT_EVENT: {}}),
}


@pytest.mark.parametrize("name", BENT)
def test_id_token_claims(browser, oidc, name):
    person = oidc.add_person("ana")
    oidc.bend = lambda claims: (BENT[name](claims), None)[1]

    refuse(name, browser, browser.sign_in(person))


def forged(oidc, name, claims):
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
def test_id_token_signatures(browser, oidc, name):
    person = oidc.add_person("ana")
    oidc.bend = lambda claims: forged(oidc, name, claims)

    refuse(name, browser, browser.sign_in(person))


def test_id_token_of_another_flow(browser, oidc):
    """Replay of a whole ID token: the nonce is that of the earlier flow."""
    person, seen = oidc.add_person("ana"), []
    oidc.bend = lambda claims: seen.append(oidc.sign(claims)) or seen[-1]
    assert browser.sign_in(person).status_code == 302
    UserSession.objects.all().delete()
    victim = Browser(oidc)
    oidc.bend = lambda claims: seen[0]

    refuse("id token replay", victim, victim.sign_in(person))


def test_a_good_sign_in_still_works(browser, oidc):
    """The negative control: without an attack the same way leads in."""
    assert browser.sign_in(oidc.add_person("ana")).status_code == 302
    assert browser.is_signed_in


def test_keys_rotate_with_one_refetch(browser, oidc, monkeypatch):
    person = oidc.add_person("ana")
    browser.sign_in(person)
    oidc.rotate_key()
    monkeypatch.setattr(providers, "REFETCH_PAUSE_SECONDS", 0)
    oidc.counts.clear()

    other = Browser(oidc)
    other.sign_in(person)

    assert other.is_signed_in
    assert oidc.counts["certs"] == 1


def test_unknown_keys_do_not_flood_the_provider(oidc, provider, client):
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
    def variants(self):
        made = [site + path for site in SITES for path in PATHS]
        made += [
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
        made += [
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
        made += [
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
        return list(dict.fromkeys(made))

    def test_targets_stay_on_this_site(self, db, rf):
        """Each variant through the one function that all addresses pass; a browser's reading decides."""
        variants = self.variants()
        for wanted in variants:
            found = flows.confine_to_site(wanted)
            assert leads_home(found), (wanted, found)
        assert len(variants) >= 200
        REFUSED.extend(f"redirect {wanted!r}" for wanted in variants)

    def test_through_sign_in(self, oidc, provider):
        person = oidc.add_person("ana")
        for wanted in (
            "https://evil.example/",
            "//evil.example",
            "/\\evil.example",
            "javascript:alert(1)",
        ):
            browser = Browser(oidc)
            assert leads_home(path_of_location(browser.sign_in(person, target=wanted)))

    def test_through_the_existing_clients_callback(self, oidc, db):
        make_row(oidc, slug="keycloak")
        for state in (
            "https://evil.example/",
            "//evil.example",
            "/\\evil.example",
            "http://testserver@evil.example/",
        ):
            response = Client().get("/oauth/keycloak/callback", {"code": "x", "state": state})
            location = response.headers.get("Location", "/")
            assert leads_home(location)
            assert "evil" not in location

    def test_addresses_of_this_site_are_kept(self):
        for wanted, expected in (
            ("/settings", "/settings"),
            ("/conversations/1?a=b&c=%2F", "/conversations/1?a=b&c=%2F"),
            ("http://testserver/settings?x=1", "/settings?x=1"),
            ("", "/"),
            (None, "/"),
        ):
            assert flows.confine_to_site(wanted) == expected


def path_of_location(response):
    assert response.status_code == 302
    return response.headers["Location"]


def leads_home(location):
    """Whether a browser that is sent there stays: it drops tabs and newlines, and reads backslashes as slashes."""
    read = "".join(c for c in location if c not in "\t\r\n").strip().replace("\\", "/")
    return read.startswith("/") and not read.startswith("//")


LOGOUT = {
    "an ID token": {"events": None, "nonce": "n"},
    "no event": {"events": None},
    "another event": {"events": {"https://evil.example": {}}},
    "events as a list": {"events": [LOGOUT_EVENT]},
    "event as a text": {"events": {LOGOUT_EVENT: "x"}},
    "a nonce": {"nonce": "n"},
    "nobody": {"sub": None, "sid": None},
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
    def test_misused(self, signed_in, oidc, name):
        sid = next(iter(oidc.sessions))
        token = oidc.logout_token(**({"sub": "sub-of-ana", "sid": sid} | LOGOUT[name]))

        self.refuse(signed_in, f"logout: {name}", token)

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
    def test_forged(self, signed_in, oidc, name):
        claims = jwt.decode(
            oidc.logout_token(sub="sub-of-ana"), options={"verify_signature": False}
        )

        self.refuse(signed_in, f"logout: {name}", forged(oidc, name, claims))

    def test_replayed(self, signed_in, oidc):
        token = oidc.logout_token(sub="sub-of-ana")
        assert (
            Client().post("/oidc/acme/back-channel-logout", {"logout_token": token}).status_code
            == 200
        )
        again = Browser(oidc)
        again.sign_in(oidc.people["ana"])

        self.refuse(again, "logout: replay", token)

    def refuse(self, browser, name, token):
        response = Client(enforce_csrf_checks=True).post(
            "/oidc/acme/back-channel-logout", {"logout_token": token}
        )
        assert response.status_code == 400, name
        assert browser.is_signed_in, name
        REFUSED.append(name)


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
    def test_misused(self, oidc, provider, client, name):
        person = oidc.add_person("ana")

        self.refuse(client, f"bearer: {name}", oidc.access_token(person, **BEARER[name]))

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
    def test_forged(self, oidc, provider, client, name):
        person = oidc.add_person("ana")
        claims = jwt.decode(oidc.access_token(person), options={"verify_signature": False})

        self.refuse(client, f"bearer: {name}", forged(oidc, name, claims))

    def test_provider_that_takes_no_bearer_tokens(self, oidc, db, client):
        make_row(oidc, bearer_clients=[])

        self.refuse(client, "bearer: not allowed", oidc.access_token(oidc.add_person("ana")))

    def test_id_token_of_a_real_sign_in(self, browser, oidc, client):
        seen = []
        oidc.bend = lambda claims: seen.append(oidc.sign(claims)) or seen[-1]
        browser.sign_in(oidc.add_person("ana"))

        response = client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {seen[0]}"})

        assert response.status_code == 401
        REFUSED.append("bearer: real ID token")

    def refuse(self, client, name, token):
        response = client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 401, name
        assert not User.objects.exists()
        assert not Identity.objects.exists()
        REFUSED.append(name)
