"""What the stand-in service remembers, in SQLite: a restart, or a kill, loses nothing."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_TABLES = """
CREATE TABLE IF NOT EXISTS tokens (token PRIMARY KEY, identity, kind, expires REAL, scopes);
CREATE TABLE IF NOT EXISTS functions (id PRIMARY KEY, owner, doc);
CREATE TABLE IF NOT EXISTS endpoints (id PRIMARY KEY, owner, doc, locked REAL DEFAULT 0,
    seen REAL DEFAULT 0, report DEFAULT '{}');
CREATE TABLE IF NOT EXISTS children (id PRIMARY KEY, parent, owner, seen REAL DEFAULT 0,
    report DEFAULT '{}', failed REAL DEFAULT 0, failure);
CREATE TABLE IF NOT EXISTS groups (id PRIMARY KEY, owner, queue INTEGER);
CREATE TABLE IF NOT EXISTS tasks (id PRIMARY KEY, grp, child, owner, function, status,
    created REAL, completed REAL, details, result, exception);
CREATE TABLE IF NOT EXISTS requests (identity, at REAL, route, bytes INTEGER, status INTEGER);
CREATE TABLE IF NOT EXISTS faults (name PRIMARY KEY, doc);
"""


class State:
    """One connection behind one lock: a test rig has no need of more."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.executescript(_TABLES)

    def run(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()

    def one(self, statement: str, *values: Any) -> sqlite3.Row | None:
        rows = self.run(statement, *values)
        return rows[0] if rows else None

    def insert(self, table: str, **fields: Any) -> None:
        names, marks = ", ".join(fields), ", ".join("?" * len(fields))
        self.run(
            f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})",  # noqa: S608
            *fields.values(),
        )

    # -- faults that a test switches on ------------------------------------------------

    def set_fault(self, name: str, doc: dict[str, Any] | None) -> None:
        if doc is None:
            self.run("DELETE FROM faults WHERE name = ?", name)
        else:
            self.insert("faults", name=name, doc=json.dumps(doc))

    def fault(self, name: str, route: str = "") -> dict[str, Any] | None:
        """Return a fault that is on for this route, and count it down."""
        with self._lock:
            row = self.one("SELECT doc FROM faults WHERE name = ?", name)
            doc: dict[str, Any] | None = json.loads(row["doc"]) if row else None
            if doc is None or doc.get("route", "") not in route:
                return None
            if "count" in doc:
                doc["count"] -= 1
                self.set_fault(name, doc if doc["count"] > 0 else None)
            return doc

    # -- the service's own rules --------------------------------------------------------

    def over_rate(self, identity: str, most: int, seconds: float) -> bool:
        row = self.one(
            "SELECT count(*) AS n FROM requests WHERE identity = ? AND at > ?",
            *(identity, time.time() - seconds),
        )
        return row is not None and row["n"] >= most

    def expire_results(self, seconds: float) -> None:
        """Forget finished tasks that nobody has fetched in time."""
        self.run(
            "DELETE FROM tasks WHERE completed IS NOT NULL AND completed < ?",
            time.time() - seconds,
        )
