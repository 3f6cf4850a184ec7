"""What a page shows to be typed, and whether there is such a thing to type."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

import click

from deployrig.admin import ROOT
from fitserve.cli import cli as fitserve
from sitekit.cli import commands as sitekit

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["GUIDES", "Shown", "known", "read_site", "shown"]

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^(login|user|)\$ (.*)$")
_ASSIGNED = re.compile(r"^[A-Z_]+=")


class Shown(NamedTuple):
    """A command of a page.

    Attributes
    ----------
    where
        ``login``: on the login node; ``user``: on a user's machine; empty: where one deploys.
    words
        Of the command, without variables that are set for it.
    output
        Lines that the page shows of what it says.
    credentials
        Whether the page sets them for it.
    pulled
        Whether `git pull` comes before it.
    """

    where: str
    words: list[str]
    output: list[str]
    credentials: bool
    pulled: bool

    @property
    def options(self) -> list[str]:
        """Of a command of make: what ARGS gives on."""
        given = [word.partition("=")[2] for word in self.words if word.startswith("ARGS=")]
        return shlex.split(given[0]) if given else []


def read_site(page: Path) -> str:
    """Return the site file that a page shows."""
    [site] = [
        text
        for kind, text in _BLOCK.findall(page.read_text(encoding="utf-8"))
        if kind == "yaml" and "extends:" in text
    ]
    return site


def shown(page: Path) -> list[Shown]:
    """Return the commands of a page, in its order."""
    found: list[Shown] = []
    for kind, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind != "console":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            typed = _PROMPT.match(line)
            if typed is None:
                found[-1].output.append(line)
                continue
            where, command = typed.groups()
            before, _, rest = command.rpartition(" && ")
            words = shlex.split(rest)
            while _ASSIGNED.match(words[0]):
                words.pop(0)
            secret = "GLOBUS_COMPUTE_CLIENT_SECRET=" in rest
            found.append(Shown(where, words, [], secret, before == "git pull"))
    return found


def known(one: Shown) -> None:
    """Require that there is such a command, with such options.

    Raises
    ------
    AssertionError
        make has no such target, or a program has no such command.
    click.ClickException
        The command takes no such option.
    """
    program, verb, *words = one.words
    if program == "export":
        assert verb.startswith("FITSERVE_SITE_PATH=")
    elif program == "make":
        assert words[0] == "SITE=mysite"
        assert all(word.startswith("ARGS=") for word in words[1:])
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{verb}: .*## ", makefile, re.MULTILINE), verb
        _parse(sitekit, [verb, "mysite", *one.options])
    else:
        assert program in {"fitserve", "~/.local/bin/fitserve"}
        _parse(fitserve, [verb, *words])


def _parse(group: click.Group, words: list[str]) -> None:
    command: click.Command = group
    context = click.Context(group)
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, name
        command, context = found, click.Context(found, parent=context)
    command.make_parser(context).parse_args(words)
