"""What a scheduler is stands in one place of sitekit."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

from sitekit.fields import SchedulerType
from sitekit.schedulers import BATCH

SITEKIT = Path(__file__).parents[2] / "deploy" / "sitekit"
NAMES_SCHEDULERS = {
    "schedulers/slurm.py": "what Slurm is",
    "schedulers/pbs.py": "what PBS Pro and Torque are",
    "doctor/slurm_findings.py": "what the doctor looks at with Slurm",
    "doctor/pbs_findings.py": "what the doctor looks at with PBS Pro and Torque",
    "fields.py": "the values of a field, which are held against those of the schema",
}


def _strings(path: Path) -> list[str]:
    """Return the text of a module's strings, without docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    ]


def test_what_a_scheduler_is_stands_in_one_place() -> None:
    names = re.compile(rf"\b({'|'.join([*BATCH, 'pbs'])})\b", re.IGNORECASE)
    naming = {
        str(path.relative_to(SITEKIT))
        for path in SITEKIT.rglob("*.py")
        if any(names.search(text) for text in _strings(path))
    }
    assert naming == set(NAMES_SCHEDULERS)


def test_every_scheduler_of_the_schema_is_known() -> None:
    assert {*BATCH, "kubernetes", "local"} == set(get_args(SchedulerType))
