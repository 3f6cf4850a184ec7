"""Programs helm and kubectl that answer what they are told, and only take note of what is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sitekit.deployment.targets import CREDENTIALS

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

__all__ = ["Fake"]

# Answers by the first words that are found in a command line; each call is noted.
FAKE = """#!/usr/bin/env python3
import json, pathlib, sys
place = pathlib.Path({place!r})
words = " ".join([{name!r}, *sys.argv[1:]])
stdin = sys.stdin.read()
with (place / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps([words, stdin]) + "\\n")
for start, (status, text) in json.loads((place / "answers.json").read_text()).items():
    if words.startswith(start):
        print(text, file=sys.stderr if status else sys.stdout)
        sys.exit(status)
"""


class Fake:
    """A PATH with helm and kubectl that answer what they are told."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self.answers: dict[str, tuple[int, str]] = {
            "helm version": (0, "v4.1.0"),
            "kubectl auth can-i": (0, "yes"),
            "kubectl get": (0, '{"items": []}'),
        }
        for name in ("helm", "kubectl"):
            program = place / name
            program.write_text(FAKE.format(place=str(place), name=name))
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:/usr/local/bin:/usr/bin:/bin")
        for variable in CREDENTIALS:
            monkeypatch.setenv(variable, "")  # so that what is set meanwhile is undone too
            monkeypatch.delenv(variable)
        self.tell({})

    def tell(self, answers: dict[str, tuple[int, str]]) -> None:
        """Answer so; what is asked first is looked for first."""
        earlier = {start: said for start, said in self.answers.items() if start not in answers}
        self.answers = {**answers, **earlier}
        (self.place / "answers.json").write_text(json.dumps(self.answers))

    def calls(self, start: str = "") -> list[tuple[str, str]]:
        """Return the calls that start so, each with its standard input."""
        path = self.place / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [
            (words, stdin) for words, stdin in map(json.loads, lines) if words.startswith(start)
        ]
