"""The stand-in for Globus Auth: clients, tokens that expire, identities."""

from __future__ import annotations

import base64
import hmac
import secrets
import time
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from globusrig.state import State

_COMPUTE_SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"


class Refused(Exception):  # noqa: N818
    """An answer that is not 200: its status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Auth:
    """Issues and checks tokens.

    Parameters
    ----------
    clients
        By client id: ``secret``, ``username``, ``groups``. A client's id is its identity's.
    seconds
        How long a token holds.
    """

    def __init__(self, state: State, clients: dict[str, dict[str, Any]], seconds: float) -> None:
        self._state = state
        self._clients = clients
        self._seconds = seconds
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def who(self, authorization: str | None) -> str:
        """Return the identity that a request's token stands for."""
        kind, _, token = (authorization or "").partition(" ")
        found = self._state.one("SELECT * FROM tokens WHERE token = ?", token)
        if kind != "Bearer" or found is None or found["kind"] != "access":
            raise Refused(401, "missing or unknown token")
        if found["expires"] < time.time():
            raise Refused(401, "the token has expired")
        return str(found["identity"])

    def identity(self, ident: str) -> dict[str, Any]:
        username = self._clients.get(ident, {}).get("username", f"{ident}@clients.invalid")
        # The endpoint maps only identities that are in use.
        return {
            "sub": ident,
            "id": ident,
            "status": "used",
            "username": username,
            "name": username.split("@")[0],
            "email": None,
            "organization": "test rig",
        }

    def groups(self, ident: str) -> list[str]:
        return list(self._clients.get(ident, {}).get("groups", []))

    def code(self, ident: str) -> str:
        """Return what a browser would show at the end of a login."""
        code = secrets.token_urlsafe(12)
        expires = time.time() + 600
        self._state.insert("tokens", token=code, identity=ident, kind="code", expires=expires)
        return code

    def grant(self, form: dict[str, str], authorization: str | None) -> dict[str, Any]:
        """Answer the token endpoint."""
        kind = form.get("grant_type")
        scopes = form.get("scope", f"openid profile email {_COMPUTE_SCOPE}")
        if kind == "client_credentials":
            return self._tokens(self._client(authorization), scopes, refresh=False)
        if kind in {"authorization_code", "refresh_token"}:
            given = form.get("code" if kind == "authorization_code" else "refresh_token", "")
            expected = "code" if kind == "authorization_code" else "refresh"
            found = self._state.one("SELECT * FROM tokens WHERE token = ?", given)
            if found is None or found["kind"] != expected or found["expires"] < time.time():
                raise Refused(400, "invalid_grant")
            if kind == "authorization_code":
                self._state.run("DELETE FROM tokens WHERE token = ?", given)
            else:  # a refresh token is for one resource server
                scopes = found["scopes"]
            audience = form.get("client_id", "")
            return self._tokens(found["identity"], scopes, refresh=True, audience=audience)
        raise Refused(400, f"grant {kind} is not supported")

    def revoke(self, token: str) -> None:
        self._state.run("DELETE FROM tokens WHERE token = ?", token)

    def expire_all(self) -> None:
        """End every access token now; refreshing and client credentials still work."""
        self._state.run("UPDATE tokens SET expires = 0 WHERE kind = 'access'")

    def keys(self) -> dict[str, Any]:
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [{**jwk, "alg": "RS512", "use": "sig", "kid": "rig"}]}

    def _client(self, authorization: str | None) -> str:
        try:
            pair = base64.b64decode((authorization or "").split()[1]).decode()
            ident, _, secret = pair.partition(":")
        except (IndexError, ValueError):
            raise Refused(401, "client credentials are missing") from None
        expected = str(self._clients.get(ident, {}).get("secret", ""))
        if not expected or not hmac.compare_digest(expected, secret):
            raise Refused(401, "invalid client credentials")
        return ident

    def _tokens(
        self, ident: str, scopes: str, *, refresh: bool, audience: str = ""
    ) -> dict[str, Any]:
        by_server: dict[str, list[str]] = defaultdict(list)
        for scope in scopes.split():
            server = "funcx_service" if scope == _COMPUTE_SCOPE else "auth.globus.org"
            by_server[server].append(scope)
        answers = []
        for server, held in by_server.items():
            answer = {
                "access_token": self._issue(ident, "access", self._seconds),
                "scope": " ".join(held),
                "expires_in": int(self._seconds),
                "resource_server": server,
                "token_type": "Bearer",
            }
            if refresh:
                half_a_year = 180 * 24 * 3600
                answer["refresh_token"] = self._issue(ident, "refresh", half_a_year, held)
            answers.append(answer)
        first = {**answers[0], "other_tokens": answers[1:]}
        if refresh:
            now = int(time.time())
            claims = {**self.identity(ident), "aud": audience, "iat": now, "exp": now + 3600}
            first["id_token"] = jwt.encode(
                {**claims, "iss": "https://auth.globus.org", "at_hash": ""},
                self._key,
                algorithm="RS512",
                headers={"kid": "rig"},
            )
        return first

    def _issue(self, ident: str, kind: str, seconds: float, scopes: Sequence[str] = ()) -> str:
        token = secrets.token_urlsafe(24)
        fields = {"identity": ident, "kind": kind, "expires": time.time() + seconds}
        self._state.insert("tokens", token=token, scopes=" ".join(scopes), **fields)
        return token


def new_id() -> str:
    return str(uuid.uuid4())
