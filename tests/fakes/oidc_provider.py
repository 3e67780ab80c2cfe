"""A fake OpenID Connect provider with the addresses of a Keycloak realm. Tests can make it misbehave.

It is as strict as a good provider: a code works once and only with its PKCE verifier and redirect address, refresh
tokens rotate, and a reused refresh token ends the session. Tests change the signed claims through ``bend``.
"""

import base64
import hashlib
import html
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
FORM = """<!doctype html><title>Sign in</title><form method="post" action="/realms/{realm}/login">
<input type="hidden" name="query" value="{query}"><input id="username" name="username"><p id="input-error">{error}</p>
<input id="password" name="password" type="password"><button id="kc-login">Sign In</button></form>"""


@dataclass
class Person:
    sub: str
    username: str
    password: str
    email: str
    roles: list[str] = field(default_factory=list)
    email_verified: bool = True
    enabled: bool = True


@dataclass
class Session:
    sid: str
    person: Person
    refresh_token: str = ""
    auth_time: int = 0


class Key:
    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def jwk(self) -> dict[str, Any]:
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key()))
        return key | {"kid": self.id, "use": "sig", "alg": "RS256"}

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


class OidcProvider:
    """A realm with users. Use it as a context manager. ``issuer`` is its address."""

    def __init__(
        self,
        *,
        client_id: str = "server",
        client_secret: str = "client-secret",
        realm: str = "test",
    ) -> None:
        self.client_id, self.client_secret, self.realm = client_id, client_secret, realm
        self.people: dict[str, Person] = {}
        self.sessions: dict[str, Session] = {}
        self.codes: dict[str, dict[str, Any]] = {}
        self.keys = [Key()]
        self.access_seconds = 300
        self.counts: dict[str, int] = {}
        self.is_down = False
        self.slowness = 0.0
        self.refresh_error = ""
        self.back_channel_url = ""
        self.client_methods: tuple[str, ...] = ("client_secret_basic", "client_secret_post")
        """The ways in which the client may send its secret."""
        self.userinfo: dict[str, Any] = {}
        """Claims that the userinfo endpoint adds."""
        self.bend: Callable[[dict[str, Any]], str | None] = lambda claims: None
        """A function that may change an ID token's claims in place, or return a token to send instead."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.issuer = f"{self.url}/realms/{realm}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # --- Actions of tests

    def add_person(self, name: str, **fields: Any) -> Person:
        person = Person(
            **(
                {
                    "sub": f"sub-of-{name}",
                    "username": name,
                    "password": "pass",
                    "email": f"{name}@example.org",
                }
                | fields
            )
        )
        self.people[name] = person
        return person

    def rotate_key(self) -> None:
        self.keys.insert(0, Key())

    def authorize(self, url: str, person: Person) -> dict[str, str]:
        """Grant an authorization request; return the query of the redirect, with ``code`` and ``state``."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        location = self._grant(query, person)
        return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}

    def sign(
        self,
        claims: dict[str, Any],
        *,
        key: Key | None = None,
        algorithm: str = "RS256",
        **header: Any,
    ) -> str:
        key = key or self.keys[0]
        # `jwt.encode` would refuse invalid claims, which some tests need.
        return jwt.PyJWS().encode(
            json.dumps(claims).encode(), key.private, algorithm, {"kid": key.id} | header
        )

    def access_token(self, person: Person, **claims: Any) -> str:
        now = int(time.time())
        body = {
            "iss": self.issuer,
            "sub": person.sub,
            "aud": [self.client_id, "account"],
            "azp": "cli",
            "typ": "Bearer",
            "iat": now,
            "exp": now + self.access_seconds,
            "jti": secrets.token_hex(8),
            "scope": "openid email",
            "email": person.email,
            "email_verified": person.email_verified,
            # Keycloak leaves the claim out if the person has no role.
            "realm_access": {"roles": person.roles} if person.roles else None,
        }
        return self.sign({k: v for k, v in (body | claims).items() if v is not None})

    def logout_token(self, **claims: Any) -> str:
        now = int(time.time())
        body = {
            "iss": self.issuer,
            "aud": self.client_id,
            "iat": now,
            "exp": now + 120,
            "jti": secrets.token_hex(8),
            "events": {LOGOUT_EVENT: {}},
            "typ": "Logout",
        }
        return self.sign(
            {k: v for k, v in (body | claims).items() if v is not None}, typ="logout+jwt"
        )

    def end_session(self, sid: str) -> None:
        """End a session like an administrator, and notify the client by back-channel logout."""
        session = self.sessions.pop(sid, None)
        if session and self.back_channel_url:
            token = self.logout_token(sub=session.person.sub, sid=sid)
            httpx2.post(
                self.back_channel_url, data={"logout_token": token}, timeout=10, trust_env=False
            )

    # --- The protocol

    def _grant(self, query: dict[str, str], person: Person) -> str:
        sid, code = secrets.token_hex(8), secrets.token_urlsafe(24)
        self.sessions[sid] = Session(sid, person, auth_time=int(time.time()))
        self.codes[code] = query | {"sid": sid}
        return (
            query["redirect_uri"]
            + "?"
            + urlencode({"code": code, "state": query["state"], "session_state": sid})
        )

    def _is_client(self, form: dict[str, str], authorization: str) -> bool:
        """Check the client's id and secret in the form, or form-encoded in the header (RFC 6749, section 2.3.1)."""
        sent = form.get("client_id"), form.get("client_secret")
        if assertion := form.get("client_assertion"):
            return "client_secret_jwt" in self.client_methods and self._is_assertion(assertion)
        if authorization:
            # A client must not authenticate in two ways.
            if form.get("client_secret") or "client_secret_basic" not in self.client_methods:
                return False
            pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
            client_id, _, secret = pair.partition(":")
            sent = unquote_plus(client_id), unquote_plus(secret)
        elif form.get("client_secret") and "client_secret_post" not in self.client_methods:
            return False
        elif not form.get("client_secret"):
            return "none" in self.client_methods and form.get("client_id") == self.client_id
        return sent == (self.client_id, self.client_secret)

    def _is_assertion(self, assertion: str) -> bool:
        """Check a client's JWT (RFC 7523, section 3)."""
        try:
            claims = jwt.decode(
                assertion,
                self.client_secret,
                algorithms=["HS256"],
                audience=f"{self.issuer}/protocol/openid-connect/token",
                issuer=self.client_id,
                options={"require": ["exp", "jti", "sub"]},
            )
        except jwt.PyJWTError:
            return False
        return bool(claims["sub"] == self.client_id)

    def _token(self, form: dict[str, str], authorization: str = "") -> tuple[int, dict[str, Any]]:
        if not self._is_client(form, authorization):
            return 401, {"error": "invalid_client"}
        if form.get("grant_type") == "refresh_token":
            return self._refresh(form)
        with self._lock:
            grant = self.codes.pop(form.get("code", ""), None)
        if grant is None or grant["redirect_uri"] != form.get("redirect_uri"):
            return 400, {"error": "invalid_grant"}
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if grant.get("code_challenge_method") != "S256" or grant.get("code_challenge") != challenge:
            return 400, {"error": "invalid_grant", "error_description": "PKCE verification failed"}
        return 200, self._tokens(self.sessions[grant["sid"]], nonce=grant.get("nonce"))

    def _refresh(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if self.refresh_error:
            return 400, {"error": self.refresh_error}
        token = form.get("refresh_token", "")
        sid = token.partition(".")[0]
        with self._lock:
            session = self.sessions.get(sid)
            if session is None or not session.person.enabled:
                return 400, {"error": "invalid_grant"}
            if session.refresh_token != token:  # a reused token ends the session
                del self.sessions[sid]
                return 400, {
                    "error": "invalid_grant",
                    "error_description": "Maximum allowed refresh token reuse exceeded",
                }
            return 200, self._tokens(session, nonce=None)

    def _tokens(self, session: Session, *, nonce: str | None) -> dict[str, Any]:
        now, person = int(time.time()), session.person
        session.refresh_token = f"{session.sid}.{secrets.token_urlsafe(24)}"
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": person.sub,
            "aud": self.client_id,
            "azp": self.client_id,
            "typ": "ID",
            "iat": now,
            "exp": now + 300,
            "auth_time": session.auth_time,
            "sid": session.sid,
            "email": person.email,
            "email_verified": person.email_verified,
            "preferred_username": person.username,
        }
        if nonce:
            claims["nonce"] = nonce
        token = self.bend(claims)
        return {
            "access_token": self.access_token(person, azp=self.client_id, sid=session.sid),
            "refresh_token": session.refresh_token,
            "expires_in": self.access_seconds,
            "token_type": "Bearer",
            "id_token": token if token is not None else self.sign(claims),
        }

    def _discovery(self) -> dict[str, Any]:
        base = f"{self.issuer}/protocol/openid-connect"
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{base}/auth",
            "token_endpoint": f"{base}/token",
            "jwks_uri": f"{base}/certs",
            "userinfo_endpoint": f"{base}/userinfo",
            "end_session_endpoint": f"{base}/logout",
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - a table of addresses
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self._serve({})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                self._serve({k: v[0] for k, v in parse_qs(body).items()})

            def _serve(self, form: dict[str, str]) -> None:
                parts = urlsplit(self.path)
                name = parts.path.rpartition("/")[2]
                query = {k: v[0] for k, v in parse_qs(parts.query).items()}
                with provider._lock:
                    provider.counts[name] = provider.counts.get(name, 0) + 1
                time.sleep(provider.slowness)
                if provider.is_down:
                    return self._answer(503, {"error": "down"})
                if name == "openid-configuration":
                    return self._answer(200, provider._discovery())
                if name == "certs":
                    return self._answer(200, {"keys": [key.jwk() for key in provider.keys]})
                if name == "token":
                    return self._answer(
                        *provider._token(form, self.headers.get("Authorization", ""))
                    )
                if name == "userinfo":
                    return self._userinfo()
                if name == "auth":
                    return self._form(parts.query, "")
                if name == "login":
                    return self._login(form)
                if name == "logout":
                    return self._logout(query, form)
                return self._answer(404, {})

            def _userinfo(self) -> None:
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                try:
                    claims = jwt.decode(token, options={"verify_signature": False})
                except jwt.PyJWTError:
                    return self._answer(401, {})
                return self._answer(
                    200,
                    {
                        "sub": claims["sub"],
                        "email": claims["email"],
                        "email_verified": claims["email_verified"],
                    }
                    | provider.userinfo,
                )

            def _form(self, query: str, error: str) -> None:
                page = FORM.format(realm=provider.realm, query=html.escape(query), error=error)
                self._answer(200, page.encode(), "text/html")

            def _login(self, form: dict[str, str]) -> None:
                person = provider.people.get(form.get("username", ""))
                query = {k: v[0] for k, v in parse_qs(form["query"]).items()}
                if person is None or person.password != form.get("password"):
                    return self._form(form["query"], "Invalid username or password.")
                if not person.enabled:
                    return self._form(
                        form["query"], "Account is disabled, contact your administrator."
                    )
                return self._redirect(provider._grant(query, person))

            def _logout(self, query: dict[str, str], form: dict[str, str]) -> None:
                if token := form.get("refresh_token"):
                    if not provider._is_client(form, self.headers.get("Authorization", "")):
                        return self._answer(401, {"error": "invalid_client"})
                    provider.sessions.pop(token.partition(".")[0], None)
                    return self._answer(204, b"", "text/plain")
                claims = jwt.decode(query["id_token_hint"], options={"verify_signature": False})
                provider.sessions.pop(claims["sid"], None)
                return self._redirect(query["post_logout_redirect_uri"])

            def _redirect(self, location: str) -> None:
                self.send_response(302)
                self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _answer(self, status: int, body: Any, kind: str = "application/json") -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler
