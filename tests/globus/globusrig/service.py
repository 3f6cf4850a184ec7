"""The rules of the stand-in service: who may do what, and where tasks and results go."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from globusrig.auth import Refused, new_id
from globusrig.messages import PREFIX, pack, unpack

if TYPE_CHECKING:
    import sqlite3

    from globusrig.auth import Auth
    from globusrig.messages import Broker
    from globusrig.state import State

FAILED_CHILD_SECONDS = 20.0
"""A child that could not start is not tried again for this long."""
_FINISHED = ("success", "failed")


class Service:
    """Functions, endpoints, children, tasks. Every method returns the JSON of its answer."""

    broker: Broker

    def __init__(self, state: State, auth: Auth, policies: dict[str, list[str]]) -> None:
        self._state = state
        self._auth = auth
        self._policies = policies

    # -- functions ------------------------------------------------------------------------

    def register_function(self, ident: str, doc: dict[str, Any]) -> dict[str, Any]:
        if not doc.get("serialized", True):
            # Plain source is kept as the SDK's PureSourceTextInspect would have packed it.
            code = f"st\n{doc['function_name']}:{doc['function_code']}"
            doc = {**doc, "function_code": f"{len(code)}\n{code}"}
        function = new_id()
        self._state.insert("functions", id=function, owner=ident, doc=json.dumps(doc))
        return {"function_uuid": function}

    def function(self, ident: str, function: str) -> dict[str, Any]:
        row = self._state.one("SELECT * FROM functions WHERE id = ?", function)
        if row is None:
            raise Refused(404, f"Function {function} is unknown")
        doc: dict[str, Any] = json.loads(row["doc"])
        shared = doc.get("public") or doc.get("group") in self._auth.groups(ident)
        if row["owner"] != ident and not shared:
            raise Refused(403, f"Function {function} is not shared with you")
        return {"function_uuid": function, **doc}

    # -- endpoints ------------------------------------------------------------------------

    def register_endpoint(
        self, ident: str, doc: dict[str, Any], endpoint: str | None = None
    ) -> dict[str, Any]:
        endpoint = endpoint or new_id()
        row = self._state.one("SELECT * FROM endpoints WHERE id = ?", endpoint)
        if row is not None and row["owner"] != ident:
            raise Refused(403, "this endpoint is not yours")
        if row is not None and row["locked"] > time.time():
            raise Refused(423, "the endpoint is locked")
        self._state.insert("endpoints", id=endpoint, owner=ident, doc=json.dumps(doc))
        queue = f"{endpoint}.command"
        self.broker.declare(queue, purge=True)
        return {
            "endpoint_id": endpoint,
            "command_queue_info": self.broker.address(queue),
            "heartbeat_queue_info": self.broker.address("heartbeat", "heartbeat"),
        }

    def lock(self, ident: str, endpoint: str) -> dict[str, Any]:
        self._owned(ident, endpoint)
        until = time.time() + 10
        self._state.run("UPDATE endpoints SET locked = ? WHERE id = ?", until, endpoint)
        return {}

    def delete(self, ident: str, endpoint: str) -> dict[str, Any]:
        self._owned(ident, endpoint)
        self._state.run("DELETE FROM endpoints WHERE id = ?", endpoint)
        return {"result": 302}

    def endpoints(self, ident: str) -> list[dict[str, Any]]:
        rows = self._state.run("SELECT * FROM endpoints WHERE owner = ?", ident)
        return [
            {"uuid": row["id"], "name": json.loads(row["doc"])["endpoint_name"]} for row in rows
        ]

    def endpoint(self, ident: str, endpoint: str) -> dict[str, Any]:
        row, doc = self._usable(ident, endpoint)
        return {
            "uuid": endpoint,
            "owner_id": row["owner"],
            "name": doc["endpoint_name"],
            "multi_user": bool(doc.get("multi_user")),
            **doc.get("metadata", {}),
        }

    def status(self, ident: str, endpoint: str) -> dict[str, Any]:
        row = self._state.one("SELECT * FROM children WHERE id = ?", endpoint)
        if row is None:
            row, _ = self._usable(ident, endpoint)
        elif row["owner"] != ident:
            raise Refused(403, "this endpoint is not yours")
        report = json.loads(row["report"])
        period = report.get("heartbeat_period", 30)
        heard = time.time() - row["seen"] < 3 * period
        up = bool(period) and report.get("active", True) and heard
        return {"status": "online" if up else "offline", "details": report}

    def allowed_functions(self, ident: str, endpoint: str) -> dict[str, Any]:
        _, doc = self._usable(ident, endpoint)
        listed = doc.get("allowed_functions")
        return {
            "endpoint_id": endpoint,
            "restricted": listed is not None,
            "functions": listed or [],
        }

    def _owned(self, ident: str, endpoint: str) -> sqlite3.Row:
        row = self._state.one("SELECT * FROM endpoints WHERE id = ?", endpoint)
        if row is None:
            raise Refused(404, f"Endpoint {endpoint} is unknown")
        if row["owner"] != ident:
            raise Refused(403, "this endpoint is not yours")
        return row

    def _usable(self, ident: str, endpoint: str) -> tuple[sqlite3.Row, dict[str, Any]]:
        """Return an endpoint that this identity may send tasks to."""
        row = self._state.one("SELECT * FROM endpoints WHERE id = ?", endpoint)
        if row is None:
            raise Refused(404, f"Endpoint {endpoint} is unknown")
        doc: dict[str, Any] = json.loads(row["doc"])
        if row["owner"] == ident:
            return row, doc
        if not doc.get("multi_user"):
            raise Refused(403, f"Endpoint {endpoint} serves only its owner")
        policy = doc.get("authentication_policy")
        if policy is not None:
            domain = self._auth.identity(ident)["username"].partition("@")[2]
            if domain not in self._policies.get(policy, []):
                raise Refused(403, "your identity does not satisfy the authentication policy")
        return row, doc

    # -- tasks ----------------------------------------------------------------------------

    def submit(self, ident: str, endpoint: str, doc: dict[str, Any]) -> dict[str, Any]:
        _, registered = self._usable(ident, endpoint)
        functions = {name: self.function(ident, name) for name in doc["tasks"]}
        listed = registered.get("allowed_functions")
        for name in functions:
            if listed is not None and name not in listed:
                raise Refused(403, f"Function {name} is not permitted on endpoint {endpoint}")
        options = doc.get("user_endpoint_config") or {}
        child = self._start_child(ident, endpoint, options, doc.get("user_runtime") or {})
        group = self._group(ident, doc)
        answer: dict[str, list[str]] = {}
        for name, payloads in doc["tasks"].items():
            answer[name] = [
                self._enqueue(ident, child, group, name, functions[name], payload, doc)
                for payload in payloads
            ]
        ids = {"task_group_id": group, "request_id": new_id(), "endpoint_id": child}
        return {"tasks": answer, **ids}

    def _start_child(
        self, ident: str, endpoint: str, options: dict[str, Any], runtime: dict[str, Any]
    ) -> str:
        """Ask for the child endpoint of this user and these options; return its id."""
        key = json.dumps([endpoint, ident, options], sort_keys=True)
        child = str(uuid.UUID(hashlib.sha256(key.encode()).hexdigest()[:32], version=4))
        row = self._state.one("SELECT * FROM children WHERE id = ?", child)
        if row is None:
            self._state.insert("children", id=child, parent=endpoint, owner=ident)
        elif row["failed"] > time.time() - FAILED_CHILD_SECONDS:
            raise Refused(422, f"the user endpoint cannot start: {row['failure']}")
        self.broker.declare(f"{child}.tasks")
        me = self._auth.identity(ident)
        command = {
            "command": "cmd_start_endpoint",
            "args": [],
            "kwargs": {
                "name": f"uep.{endpoint}.{child}",
                "user_opts": options,
                "user_runtime": runtime,
                "amqp_creds": {
                    "endpoint_id": child,
                    "task_queue_info": self.broker.address(f"{child}.tasks"),
                    "result_queue_info": self.broker.address("result", "result"),
                    "heartbeat_queue_info": self.broker.address("heartbeat", "heartbeat"),
                },
            },
            "globus_effective_identity": ident,
            "globus_username": me["username"],
            "globus_identity_set": [me],
        }
        self.broker.publish(
            f"{endpoint}.command",
            json.dumps(command).encode(),
            content_type="application/json",
            timestamp=int(time.time()),
        )
        return child

    def _group(self, ident: str, doc: dict[str, Any]) -> str:
        group = doc.get("task_group_id")
        if group is None:
            group = new_id()
            self._state.insert("groups", id=group, owner=ident, queue=0)
        row = self._state.one("SELECT * FROM groups WHERE id = ?", group)
        if row is None or row["owner"] != ident:
            raise Refused(404, f"Task group {group} is unknown")
        if doc.get("create_queue") and not row["queue"]:
            self.broker.declare(PREFIX + group)
            self._state.run("UPDATE groups SET queue = 1 WHERE id = ?", group)
        return str(group)

    def _enqueue(
        self,
        ident: str,
        child: str,
        group: str,
        name: str,
        function: dict[str, Any],
        payload: str,
        doc: dict[str, Any],
    ) -> str:
        task = new_id()
        self._state.insert(
            "tasks",
            id=task,
            grp=group,
            child=child,
            owner=ident,
            function=name,
            status="pending",
            created=time.time(),
        )
        body = pack("task", {"task_id": task, "task_buffer": function["function_code"] + payload})
        headers = {
            "function_uuid": name,
            "task_uuid": task,
            "resource_specification": json.dumps(doc.get("resource_specification")),
            "result_serializers": doc.get("result_serializers") or [],
        }
        self.broker.publish(f"{child}.tasks", body, headers=headers)
        return task

    def task(self, ident: str, task: str) -> dict[str, Any]:
        row = self._state.one("SELECT * FROM tasks WHERE id = ? AND owner = ?", task, ident)
        if row is None:
            raise Refused(404, f"Task {task} is unknown")
        return self._view(row)

    def batch(self, ident: str, tasks: list[str]) -> dict[str, Any]:
        found = {}
        for task in tasks:
            row = self._state.one("SELECT * FROM tasks WHERE id = ? AND owner = ?", task, ident)
            unknown = {"task_id": task, "status": "failed", "reason": "unknown task"}
            found[task] = self._view(row) if row else {**unknown, "completion_t": "0"}
        return {"response": "batch", "results": found}

    def _view(self, row: sqlite3.Row) -> dict[str, Any]:
        view = {"task_id": row["id"], "status": row["status"]}
        if row["completed"] is not None:
            view["completion_t"] = str(row["completed"])
        for name in ("result", "exception"):
            if row[name] is not None:
                view[name] = row[name]
        return view

    def task_group(self, ident: str, group: str) -> dict[str, Any]:
        row = self._state.one("SELECT * FROM groups WHERE id = ?", group)
        if row is None or row["owner"] != ident:
            raise Refused(404, f"Task group {group} is unknown")
        rows = self._state.run("SELECT id FROM tasks WHERE grp = ?", group)
        return {"taskgroup_id": group, "tasks": [{"id": row["id"]} for row in rows]}

    # -- what endpoints say ---------------------------------------------------------------

    def on_message(self, routing_key: str, body: bytes) -> None:
        kind, data = unpack(body)
        if routing_key == "result" and kind == "result":
            self._finish(data, body)
        elif routing_key == "heartbeat":
            self._heartbeat(data)

    def _heartbeat(self, data: dict[str, Any]) -> None:
        endpoint = data["endpoint_id"]
        report = data.get("global_state") or data.get("ep_status_report") or {}
        for table in ("endpoints", "children"):
            self._state.run(
                f"UPDATE {table} SET seen = ?, report = ? WHERE id = ?",  # noqa: S608
                *(time.time(), json.dumps(report), endpoint),
            )
        failure = report.get("error")
        if failure:
            self._state.run(
                "UPDATE children SET failed = ?, failure = ? WHERE id = ?",
                *(time.time(), failure, endpoint),
            )
            for row in self._state.run(
                "SELECT id FROM tasks WHERE child = ? AND status = 'pending'", endpoint
            ):
                details = {"code": "ENDPOINT_START_FAILURE", "user_message": failure}
                data = {"task_id": row["id"], "data": failure, "error_details": details}
                self._finish(data, pack("result", data))

    def _finish(self, data: dict[str, Any], body: bytes) -> None:
        row = self._state.one("SELECT * FROM tasks WHERE id = ?", data["task_id"])
        if row is None or row["status"] in _FINISHED:
            return
        if self._state.fault("drop") is not None:
            self._state.run("DELETE FROM tasks WHERE id = ?", row["id"])
            return
        failed = data.get("error_details") is not None
        self._state.run(
            "UPDATE tasks SET status = ?, completed = ?, result = ?, exception = ? WHERE id = ?",
            "failed" if failed else "success",
            time.time(),
            None if failed else data["data"],
            data["data"] if failed else None,
            row["id"],
        )
        group = self._state.one("SELECT * FROM groups WHERE id = ?", row["grp"])
        if group is not None and group["queue"] and self._state.fault("mute") is None:
            self.broker.publish(PREFIX + row["grp"], body, timestamp=int(time.time()))
