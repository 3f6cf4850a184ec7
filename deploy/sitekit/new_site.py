"""Write a site file from a few answers, and check it before it is kept."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fitserve.errors import RequestError, StoreError
from fitserve.schedulers.base import clock_seconds
from sitekit.doctor.network import interfaces
from sitekit.fields import SchedulerType
from sitekit.load import CONFIGS, load_site
from sitekit.problems import SiteError
from sitekit.render import template_environment
from sitekit.rules import require_valid
from sitekit.schedulers import BATCH
from sitekit.schedulers.base import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sitekit.problems import Problem

__all__ = ["QUESTIONS", "SCHEDULERS", "Question", "answers_for", "write_site"]

SCHEDULERS: tuple[str, ...] = get_args(SchedulerType)
_BATCH = tuple(BATCH)
_WITH_GPUS = tuple(name for name, one in BATCH.items() if one.gpu_requests != ("none",))


def _interface(_: Mapping[str, Any]) -> str:
    """Return the interface that looks most like a cluster's inner network."""
    names = [name for name in interfaces() if name != "lo"]
    inner = [name for name in names if re.match(r"ib|hsn|bond|opa", name)]
    return (inner or names or ["eth0"])[0]


def _image(answers: Mapping[str, Any]) -> str:
    kind = "worker-cuda12" if int(answers.get("gpus") or 0) else "worker"
    if answers["scheduler"] == "kubernetes":
        return f"fitserve/{kind}:{{version}}"
    return f"~/fitserve/{kind}-{{version}}.sif"


QUESTIONS = (
    Question("description", "What is the site", SCHEDULERS,
             lambda a: f"{a['name']}, a site with {a['scheduler']}"),
    Question("contact", "Where do users get help (https://... or mailto:...)", SCHEDULERS),
    Question("url", "The site's own documentation (https://...)", SCHEDULERS),
    *dict.fromkeys(question for one in BATCH.values() for question in one.questions),
    Question("account", "Account to charge (empty: users give theirs)", _BATCH, lambda _: ""),
    Question("interface", "Interface of this machine that compute nodes reach", _BATCH, _interface),
    Question("cores", "Cores that one block gets of a node", _BATCH, lambda _: 8),
    Question("memory_gb", "Memory that it gets, in GiB", _BATCH, lambda a: 2 * int(a["cores"])),
    Question("gpus", "GPUs that it gets", _WITH_GPUS, lambda _: 0),
    Question("walltime", "Time limit of a block (HH:MM:SS)", _BATCH, lambda _: "02:00:00"),
    Question("longest_minutes", "Longest task, in minutes", _BATCH, lambda _: 30),
    Question("max_blocks", "Most blocks of one user", (*_BATCH, "kubernetes"),
             lambda _: 4),
    Question("namespace", "Namespace of the pods", ("kubernetes",), lambda _: "fitserve"),
    Question("image", "Image of the workers", (*_BATCH, "kubernetes"),
             _image),
)  # fmt: skip


def answers_for(
    flags: Mapping[str, Any], ask: Callable[[Question, Any], Any] | None
) -> dict[str, Any]:
    """Return an answer to each question of a scheduler.

    Parameters
    ----------
    flags
        ``name``, ``scheduler`` and further answers that are known already.
    ask
        Asks a question with its default; None where nobody can answer.

    Raises
    ------
    RequestError
        Something is missing that has no default, and nobody can be asked.
    """
    answers = {name: value for name, value in flags.items() if value is not None}
    missing = []
    for question in QUESTIONS:
        if answers["scheduler"] not in question.schedulers or question.name in answers:
            continue
        if question.name == "image" and answers.get("venv"):
            continue
        default = question.default(answers) if question.default else None
        if ask is not None:
            answers[question.name] = ask(question, default)
        elif default is None:
            missing.append(f"--{question.name.replace('_', '-')}")
        else:
            answers[question.name] = default
    if missing:
        raise RequestError(
            f"a new site needs {', '.join(missing)}",
            hint="give them (make new-site ... ARGS='...'), or run it where it can ask",
        )
    return answers


def write_site(answers: Mapping[str, Any], directory: Path | None) -> tuple[Path, list[Problem]]:
    """Write a site file, unless it would not pass its own check.

    Parameters
    ----------
    answers
        An answer to each question.
    directory
        Where to; by default the first directory of ``FITSERVE_SITE_PATH``, else among the
        shipped sites.

    Returns
    -------
    Path, list of Problem
        The file, and warnings.

    Raises
    ------
    RequestError
        The name cannot be a site's, or is taken.
    SiteError
        The answers do not make a working site; nothing is kept.
    StoreError
        The file cannot be written.
    """
    name = answers["name"]
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name):
        raise RequestError(
            f"{name!r} cannot be a site's name", hint="lower-case letters, digits and -"
        )
    own = os.environ.get("FITSERVE_SITE_PATH", "").split(os.pathsep)[0]
    place = directory or (Path(own).expanduser() if own else CONFIGS / "sites")
    target = place / f"{name}.yaml"
    if target.exists():
        raise RequestError(f"{target} is there already", hint="another NAME, or edit that file")
    text = _text(answers)
    try:
        place.mkdir(parents=True, exist_ok=True)
        part = place / f".{name}.part"
        part.mkdir()
    except OSError as error:
        raise StoreError(f"{place} cannot be written", evidence=str(error)) from error
    try:
        draft = part / target.name
        draft.write_text(text, encoding="utf-8")
        warnings = require_valid(load_site(draft)[0])
        draft.replace(target)
    except SiteError as error:
        # The draft is not kept: its name would lead nowhere.
        problems = [problem._replace(file=target.name) for problem in error.problems]
        raise SiteError(
            "these answers do not make a site, and nothing was kept", problems
        ) from None
    finally:
        shutil.rmtree(part)
    return target, warnings


def _text(answers: Mapping[str, Any]) -> str:
    scheduler, gpus = answers["scheduler"], int(answers.get("gpus") or 0)
    batch = BATCH.get(scheduler)
    blueprints = batch.blueprints if batch else (scheduler,)
    fields: dict[str, Any] = {
        "partition": "",
        "account": "",
        "venv": "",
        "max_blocks": 1,
        "exclusive": False,
        "gpu_kind": "NVIDIA",
        "device": "cuda12",
        "gpu_request": batch.gpu_requests[0] if batch else "none",
        **answers,
        "gpus": gpus,
        "base": blueprints[-1 if gpus else 0],
        "batch": batch is not None,
    }
    if batch:
        limit = str(fields["walltime"])
        if not re.fullmatch(r"\d+:\d+:\d+", limit):
            raise RequestError(f"{limit!r} is no time limit", hint="HH:MM:SS, such as 02:00:00")
        minutes = clock_seconds(limit) // 60
        longest = float(fields["longest_minutes"])
        # A block holds its start (2 minutes), the longest task and some reserve.
        fields["least_minutes"] = min(minutes, int(longest) + 5)
        fields["most_minutes"] = max(minutes, 24 * 60)
    return template_environment().get_template("new-site.yaml.j2").render(**fields)
