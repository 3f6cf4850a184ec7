"""Rules between the fields of a site, each with what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sitekit.problems import Problem, SiteError
from sitekit.rules import access, resources, runtime, scheduler

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = ["check_site", "require_valid"]

_RULES = (
    *resources.RULES,
    *scheduler.RULES,
    *runtime.RULES,
    *access.RULES,
)


def check_site(site: Site) -> list[Problem]:
    """Check a site against every rule between fields.

    Parameters
    ----------
    site
        A site that fits the schema.

    Returns
    -------
    list of Problem
        Errors and warnings, in the order of their lines.
    """
    problems = [problem for rule in _RULES for problem in rule(site)]
    return sorted(problems, key=lambda problem: (problem.file, problem.line, problem.field))


def require_valid(site: Site) -> list[Problem]:
    """Return the warnings of a site.

    Raises
    ------
    SiteError
        There are errors; all of them are in the message.
    """
    problems = check_site(site)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors:
        raise SiteError(f"site {site.name!r} would not work", errors)
    return problems
