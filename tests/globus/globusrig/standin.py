"""The stand-in service as a process: ``python -m globusrig.standin CONFIGURATION``.

The configuration is JSON: ``state`` (path), ``port``, ``amqp``, ``clients`` and ``policies``
(see `auth.Auth`, `service.Service`), ``token_seconds``, ``result_seconds``, ``payload``,
``rate`` (requests and seconds).
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from globusrig.auth import Auth, Refused
from globusrig.messages import PREFIX, Broker
from globusrig.service import Service
from globusrig.state import State

if TYPE_CHECKING:
    from collections.abc import Callable

_UUID = "([0-9a-f-]{36})"


class Request:
    """What a route gets: the caller, the path's ids, query, and the body in either shape."""

    def __init__(self, ident: str, ids: tuple[str, ...], query: dict[str, str], body: bytes):
        self.ident = ident
        self.ids = ids
        self.query = query
        self._body = body

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self._body))

    @property
    def form(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(self._body.decode()))


class App:
    """Routes, and what holds for all of them: tokens, limits, faults."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._state = State(Path(config["state"]))
        self._auth = Auth(self._state, config["clients"], config.get("token_seconds", 3600))
        self._service = Service(self._state, self._auth, config.get("policies", {}))
        self._service.broker = Broker(config["amqp"], self._service.on_message)
        service, auth = self._service, self._auth
        self._open: list[tuple[str, str, Callable[..., Any]]] = [
            ("POST", "/v2/oauth2/token", lambda r, head: auth.grant(r.form, head)),
            ("POST", "/v2/oauth2/token/revoke", lambda r, _: auth.revoke(r.form["token"]) or {}),
            ("GET", "/jwk.json", lambda _r, _: auth.keys()),
            ("GET", "/.well-known/openid-configuration", lambda _r, _: self._openid()),
            ("GET", "/v2/version", lambda _r, _: _VERSIONS),
            ("POST", "/_rig/fault", lambda r, _: self._fault(r.json)),
            ("POST", "/_rig/expire", lambda _r, _: auth.expire_all() or {}),
            ("POST", "/_rig/code", lambda r, _: {"code": auth.code(r.json["identity"])}),
            ("GET", "/_rig/requests", lambda _r, _: self._requests()),
            ("GET", "/_rig/tasks", lambda _r, _: self._tasks()),
        ]
        self._closed: list[tuple[str, str, Callable[[Request], Any]]] = [
            ("GET", "/v2/oauth2/userinfo", lambda r: self._userinfo(r.ident)),
            ("GET", "/v2/api/identities", lambda r: self._identities(r.query["ids"])),
            ("GET", "/v2/get_amqp_result_connection_url", lambda _r: self._amqp()),
            ("POST", "/v3/functions", lambda r: service.register_function(r.ident, r.json)),
            ("GET", f"/v2/functions/{_UUID}", lambda r: service.function(r.ident, *r.ids)),
            ("POST", "/v3/endpoints", lambda r: service.register_endpoint(r.ident, r.json)),
            (
                *("PUT", f"/v3/endpoints/{_UUID}"),
                lambda r: service.register_endpoint(r.ident, r.json, *r.ids),
            ),
            ("POST", f"/v3/endpoints/{_UUID}/lock", lambda r: service.lock(r.ident, *r.ids)),
            ("DELETE", f"/v2/endpoints/{_UUID}", lambda r: service.delete(r.ident, *r.ids)),
            ("GET", "/v2/endpoints", lambda r: service.endpoints(r.ident)),
            ("GET", f"/v2/endpoints/{_UUID}", lambda r: service.endpoint(r.ident, *r.ids)),
            ("GET", f"/v2/endpoints/{_UUID}/status", lambda r: service.status(r.ident, *r.ids)),
            (
                *("GET", f"/v3/endpoints/{_UUID}/allowed_functions"),
                lambda r: service.allowed_functions(r.ident, *r.ids),
            ),
            (
                *("POST", f"/v3/endpoints/{_UUID}/submit"),
                lambda r: service.submit(r.ident, r.ids[0], r.json),
            ),
            ("GET", f"/v2/tasks/{_UUID}", lambda r: service.task(r.ident, *r.ids)),
            ("POST", "/v2/batch_status", lambda r: service.batch(r.ident, r.json["task_ids"])),
            ("GET", f"/v2/taskgroup/{_UUID}", lambda r: service.task_group(r.ident, *r.ids)),
        ]

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Return the status and JSON of an answer."""
        url = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(url.query))
        authorization = headers.get("Authorization")
        ident = ""
        try:
            for verb, path, work in self._open:
                if verb == method and path == url.path:
                    return 200, work(Request("", (), query, body), authorization)
            for verb, path, do in self._closed:
                found = re.fullmatch(path, url.path)
                if verb == method and found:
                    ident = self._admit(authorization, url.path, body)
                    answer = do(Request(ident, found.groups(), query, body))
                    self._note(ident, url.path, body, 200)
                    return 200, answer
        except Refused as refused:
            self._note(ident, url.path, body, refused.status)
            reason = {"code": refused.status, "reason": refused.reason, "status": "Failed"}
            return refused.status, {**reason, "error": refused.reason}
        return 404, {"code": 404, "reason": f"no route {method} {url.path}", "status": "Failed"}

    def _admit(self, authorization: str | None, path: str, body: bytes) -> str:
        slow = self._state.fault("slow", path)
        if slow is not None:
            time.sleep(slow["seconds"])
        fault = self._state.fault("status", path)
        if fault is not None:
            raise Refused(fault["status"], "a fault of the test rig")
        ident = self._auth.who(authorization)
        most, seconds = self._config.get("rate", (20, 10.0))
        if self._state.over_rate(ident, most, seconds):
            raise Refused(429, f"more than {most} requests in {seconds:g} s")
        if len(body) > self._config.get("payload", 10 * 1000**2):
            raise Refused(413, f"{len(body)} bytes are more than a submission may have")
        self._state.expire_results(self._config.get("result_seconds", 1800))
        return ident

    def _note(self, ident: str, path: str, body: bytes, status: int) -> None:
        fields = {"identity": ident, "at": time.time(), "route": path}
        self._state.insert("requests", **fields, bytes=len(body), status=status)

    def _fault(self, doc: dict[str, Any]) -> dict[str, Any]:
        self._state.set_fault(doc["name"], doc.get("fault"))
        return {}

    def _requests(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self._state.run("SELECT * FROM requests ORDER BY at")]

    def _tasks(self) -> list[str]:
        return [row["id"] for row in self._state.run("SELECT id FROM tasks")]

    def _userinfo(self, ident: str) -> dict[str, Any]:
        me = self._auth.identity(ident)
        return {**me, "identity_set": [me]}

    def _identities(self, ids: str) -> dict[str, Any]:
        return {"identities": [self._auth.identity(ident) for ident in ids.split(",")]}

    def _amqp(self) -> dict[str, Any]:
        return {"connection_url": self._config["amqp"], "queue_prefix": PREFIX}

    def _openid(self) -> dict[str, Any]:
        base = f"http://localhost:{self._config['port']}"
        return {
            "issuer": "https://auth.globus.org",
            "jwks_uri": f"{base}/jwk.json",
            "id_token_signing_alg_values_supported": ["RS512"],
        }


_VERSIONS = {"api": "test rig", "min_sdk_version": "3.0.0", "min_ep_version": "3.0.0"}


def _handler(app: App) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = app.answer(self.command, self.path, self.headers, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Stay quiet: requests are in the database."""

    return Handler


def main(configuration: str) -> None:
    config = json.loads(Path(configuration).read_text())
    server = ThreadingHTTPServer(("127.0.0.1", config["port"]), _handler(App(config)))
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
