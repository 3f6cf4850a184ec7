"""Deploy to a login node, by Ansible's playbooks, with nothing secret on a command line.

The site file and the administrator's options say how the node is reached.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fitserve import __version__
from fitserve.errors import BackendError, InputError
from sitekit.deployment.targets import CARD, CREDENTIALS, Options, Target, credentials
from sitekit.derive import derive
from sitekit.load import flat_site
from sitekit.render import write_files
from sitekit.rules import require_valid
from sitekit.target.places import places_of
from sitekit.tools.locked_venv import install

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = ["Host", "HostOptions", "inventory"]

_ROOT = Path(__file__).resolve().parents[3]
_ANSIBLE = _ROOT / "deploy" / "ansible"


@dataclass(frozen=True, kw_only=True)
class HostOptions(Options):
    """Further options of a login node."""

    host: str | None = None
    user: str | None = None
    here: bool = False
    ssh_config: Path | None = None
    python: str | None = None
    verbose: int = 0
    check: bool = False
    diff: bool = False
    cloud: bool = False
    no_job: bool = False
    drain_seconds: int | None = None
    image: Path | None = None
    end_orphans: bool = False


def inventory(site: Site, options: HostOptions) -> dict[str, Any]:
    """Return Ansible's inventory of a site: one host, of the site's name.

    Examples
    --------
    >>> from sitekit.load import load_site
    >>> hosts = inventory(load_site("local")[0], HostOptions())
    >>> hosts["all"]["children"]["site"]["hosts"]["local"]["ansible_connection"]
    'local'

    Raises
    ------
    InputError
        The endpoint does not run on a machine that one logs in to.
    """
    if site.scheduler.type == "kubernetes":
        raise InputError(
            f"site {site.name} is a Kubernetes cluster, which has no login node to deploy to",
            hint="deploy/kubernetes holds what is applied there",
        )
    if site.status == "retired":
        raise InputError(
            f"the machine of site {site.name} is gone",
            hint="write a site file of your own that extends this one",
        )
    host = options.host or site.login.host
    variables: dict[str, Any] = {"ansible_python_interpreter": options.python or "auto_silent"}
    if options.here or host is None:
        variables["ansible_connection"] = "local"
        # This Python works; the one on the PATH may be a broken shim of pyenv.
        variables["ansible_python_interpreter"] = options.python or sys.executable
    else:
        variables |= {"ansible_connection": "ssh", "ansible_host": host}
        user = options.user or site.login.user
        if user:
            variables["ansible_user"] = user
        ssh = ["-o BatchMode=yes", "-o ConnectTimeout=15"]
        if options.ssh_config:
            ssh.append(f"-F {Path(options.ssh_config).resolve()}")
        if site.login.jump_host:
            ssh.append(f"-J {site.login.jump_host}")
        variables["ansible_ssh_common_args"] = " ".join(ssh)
    # A multi-user endpoint is root's; a deploy user becomes root without a password.
    variables["ansible_become"] = site.access.mode == "multi-user"
    return {"all": {"children": {"site": {"hosts": {site.name: variables}}}}}


class Host(Target):
    """A login node.

    Parameters
    ----------
    site, options
        Its site, and how it is reached.

    Raises
    ------
    SiteError
        The site breaks a rule between fields.
    InputError
        Its machine is gone.
    """

    kind = "login node"
    takes = HostOptions
    options: HostOptions

    def __init__(self, site: Site, options: HostOptions) -> None:
        super().__init__(site, options)
        require_valid(site)
        self._inventory = inventory(site, options)

    def install(self, *, upgrade: bool) -> None:
        credentials()  # which Ansible reads by itself; half of them is an error
        verb = "upgrade" if upgrade else "deploy"
        document = self._play(
            "deploy",
            BackendError(
                f"{verb} did not finish",
                hint="the messages above say what stopped it; correct it and run the same command "
                "again: what is done already is not done twice",
            ),
            *(["--check"] if self.options.check else []),
            *(["--diff"] if self.options.diff else []),
            upgrade=upgrade,
            cloud_login=self.options.cloud,
            image=str(self.options.image.resolve()) if self.options.image else None,
            no_job=self.options.no_job or None,
            smoke_seconds=self.options.seconds,
            drain_seconds=self.options.drain_seconds,
        )
        if not self.options.check:
            click.echo(self._handed_over(self._answered(document)))

    def status(self) -> dict[str, Any]:
        return self._ask("status", *(["--end-orphans"] if self.options.end_orphans else []))

    @staticmethod
    def status_text(status: dict[str, Any]) -> str:
        versions = status["versions"]
        lines = [_endpoint(status)]
        if status["endpoint"] is not None:
            lines.append(f"users      {len(status['children'])} child endpoints")
        jobs = status["jobs"]
        for job in jobs:
            whose = "" if job["of_endpoint"] else ", of a client on this machine"
            reason = f": {job['reason']}" if job["reason"] else ""
            if job["id"] in status.get("jobs_ended", ()):
                reason = ": its endpoint was dead; ended"
            lines.append(f"job        {job['id']} {job['state']}{reason}{whose}")
        if not jobs:
            lines.append("jobs       none")
        lines.append(_workers(status["workers"]))
        for name, disk in status["disk"].items():
            lines.append(f"disk       {name}: {disk['free_gb']} GB free at {disk['path']}")
        lines.append(
            f"release    {versions['release']}, before it {versions['previous'] or 'none'}"
        )
        if status["last_fits"] is None:
            lines.append("fitted     not known here: answers are in the users' own directories")
        lines += [
            f"fitted     {fit['ago_seconds']} s ago, task {fit['task'][:12]}"
            for fit in status["last_fits"] or ()
        ]
        if status["orphans"]:
            count = status.get("orphans_ended")
            note = f"{count} ended" if count is not None else "end them with ARGS=--end-orphans"
            lines.append(f"orphans    {len(status['orphans'])} processes of dead children; {note}")
        return "\n".join(lines)

    def smoke(self) -> list[dict[str, Any]]:
        answer = self._ask("smoke", "--seconds", str(self.options.seconds))
        stages: list[dict[str, Any]] = answer["stages"]
        return stages

    def rollback(self) -> None:
        failed = BackendError("the release was not changed", hint="the messages above say why")
        answer = self._answered(self._play("rollback", failed, smoke_seconds=self.options.seconds))
        click.echo(f"{answer['site']} is served by release {answer['release']}")

    def stop(self) -> None:
        answer = self._ask(
            "stop", "--disable", "--drain-seconds", str(self.options.drain_seconds or 0)
        )
        waited = (
            "" if answer["idle"] else "; users' fits were running: their clients send them again"
        )
        click.echo(f"{_ended(answer)}{waited}")

    def logs(self) -> str:
        texts = self._ask("logs", "--lines", str(self.options.lines))["logs"]
        lines = [line for name, text in texts.items() for line in (f"==> {name}", *text)]
        return "".join(f"{line}\n" for line in lines)

    def destroy(self) -> None:
        answer = self._ask("destroy")
        click.echo(f"{_ended(answer)}, {len(answer['removed'])} files and directories removed")
        if answer["told"]:
            click.echo(f"the service keeps its registration: {answer['told']}", err=True)
        for path in answer["left"]:
            click.echo(f"left, because it holds something else: {path}", err=True)

    def _handed_over(self, document: dict[str, Any]) -> str:
        """Return what an administrator hands to users, and what is left to do."""
        lines = [f"{document['site']} is up, release {document['release']}"]
        if not document["endpoint_id"]:
            again = " ".join(f"{name}=..." for name in CREDENTIALS)
            lines += [
                f"on {document['host']}, as {document['user']}:",
                f"  {document['command']} run PALLET --endpoint {document['direct']}",
                "for use from elsewhere, through Globus Compute, with the credentials of a client:",
                f"  {again} make deploy SITE={document['site']}",
            ]
            return "\n".join(lines)
        lines += [
            f"endpoint {document['endpoint_id']}, function {document['function_id']}",
            f"hand to users: {self.directory / CARD}",
            f"  fitserve endpoints add {document['site']} --card {CARD}",
            f"  fitserve endpoints check {document['site']}",
            f"  fitserve run PALLET --endpoint {document['site']}",
        ]
        if document["boot"] == "nothing":
            lines.append(
                "nothing starts it after a reboot: there is neither systemd for this user nor "
                f"cron; then: make deploy SITE={document['site']}"
            )
        if document["boot"] == "login":
            lines.append(
                f"it ends when {document['user']} logs out of {document['host']}, and nothing "
                "starts it after a reboot: systemd does not let that user's services linger; ask "
                f"the administrators there for `loginctl enable-linger {document['user']}`, then: "
                f"make deploy SITE={document['site']}"
            )
        if document["pending"]:
            lines.append(
                "users' fits are running: the endpoint itself is restarted by the next "
                f"`make deploy SITE={document['site']}` that finds it idle"
            )
        return "\n".join(lines)

    def _ask(self, verb: str, *words: str) -> dict[str, Any]:
        """Run one verb of `sitekit.target` on the machine, and return its answer."""
        failed = BackendError(f"{verb} did not finish", hint="the messages above say why")
        quiet = not self.options.verbose
        return self._answered(self._play("ask", failed, quiet=quiet, verb=verb, words=list(words)))

    def _answered(self, document: dict[str, Any] | None) -> dict[str, Any]:
        if document is None:
            raise BackendError(
                f"{self.site.name} did not answer",
                hint=f"make deploy SITE={self.site.name}, if it was not deployed",
            )
        return document

    def _play(
        self,
        playbook: str,
        failed: BackendError,
        *options: str,
        quiet: bool = False,
        **variables: Any,
    ) -> dict[str, Any] | None:
        """Run a playbook; returns the document that it brought back, or None.

        Parameters
        ----------
        playbook
            Its name.
        failed
            What is raised if it does not finish.
        options
            Ansible's.
        quiet
            Whether to show its output only if it fails; otherwise it goes to standard error.
        variables
            More variables, each with ``fitserve_`` before its name.
        """
        program = _ansible()
        if self.options.verbose:
            options = (f"-{'v' * self.options.verbose}", *options)
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "ANSIBLE_CONFIG": str(_ANSIBLE / "ansible.cfg")}
        environment["ANSIBLE_HOME"] = str(_ROOT / ".cache" / "ansible")
        # A directory of its own: one may ask for the status while another upgrades.
        with tempfile.TemporaryDirectory(dir=self.directory) as scratch:
            place = Path(scratch).resolve()
            (place / "inventory.json").write_text(json.dumps(self._inventory))
            extra = {**self._variables(variables), "fitserve_build": str(place)}
            (place / "variables.json").write_text(json.dumps(extra))
            write_files({f"{self.site.name}.yaml": flat_site(self.site)}, place / "flat")
            command = [
                *(str(program), str(_ANSIBLE / f"{playbook}.yml")),
                *("--inventory", str(place / "inventory.json")),
                *("--extra-vars", f"@{place / 'variables.json'}", *_vault(), *options),
            ]
            done = subprocess.run(  # noqa: S603
                command,
                check=False,
                cwd=_ANSIBLE,
                env=environment,
                stdout=subprocess.PIPE if quiet else sys.stderr,
                text=True,
            )
            answer, card = place / "returned.json", place / CARD
            document = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else None
            if card.is_file():
                card.replace(self.directory / CARD)
        if done.returncode:
            sys.stderr.write(done.stdout or "")
            raise failed
        return document

    def _variables(self, more: dict[str, Any]) -> dict[str, Any]:
        site = self.site
        paths = [str(_ROOT / "deploy"), *filter(None, [os.environ.get("PYTHONPATH")])]
        longest = derive(site).longest_seconds
        return {
            "fitserve_version": __version__,
            "fitserve_site": site.name,
            "fitserve_endpoint": derive(site).endpoint_name,
            "fitserve_digest": site.digest,
            "fitserve_scheduler": site.scheduler.type,
            "fitserve_multi_user": site.access.mode == "multi-user",
            "fitserve_places": places_of(site).as_data(),
            "fitserve_kit": [sys.executable, "-m", "sitekit"],
            "fitserve_kit_path": os.pathsep.join(paths),
            "fitserve_python": self.options.python or "",
            "fitserve_this_python": f"python3.{sys.version_info.minor}",
            "fitserve_drain_seconds": longest + 120 * site.endpoint.idle_minutes,
            **{f"fitserve_{name}": value for name, value in more.items() if value is not None},
        }


def _vault() -> list[str]:
    """Return the options of a file that Ansible vault encrypted, if there is one."""
    path = os.environ.get("FITSERVE_VAULT")
    if not path:
        return []
    options = ["--extra-vars", f"@{Path(path).expanduser().resolve()}"]
    if not os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE"):
        options.append("--ask-vault-pass")
    return options


def _ansible() -> Path:
    """Return Ansible's program, from the environment that is named or else from one made here."""
    named = os.environ.get("FITSERVE_ANSIBLE_VENV")
    try:
        program = (Path(named) if named else install("ansible")) / "bin" / "ansible-playbook"
    except subprocess.CalledProcessError as error:
        raise BackendError(
            "Ansible cannot be installed",
            evidence=f"pip failed ({error.returncode}), see above",
            hint="look at the network and at pip's configuration on this machine",
        ) from error
    if not program.is_file():
        raise BackendError(
            "Ansible is not installed",
            evidence=f"no {program}, where FITSERVE_ANSIBLE_VENV leads",
            hint="make ansible-venv",
        )
    return program


def _ended(answer: dict[str, Any]) -> str:
    return f"{len(answer['processes'])} processes and {len(answer['jobs'])} jobs ended"


def _workers(workers: dict[str, int | None]) -> str:
    """Say whether workers were counted, as on this machine, or expected, as on nodes."""
    most = f", at most {workers['most']}" if workers["most"] is not None else ""
    if "processes" in workers:
        return f"workers    {workers['processes']} processes on this machine{most}"
    return f"workers    {workers['of_running_jobs']} expected from the running jobs{most}"


def _endpoint(status: dict[str, Any]) -> str:
    endpoint = status["endpoint"]
    if endpoint is None:
        return f"endpoint   none: {status['site']} is for direct use"
    if endpoint["pid"] is None:
        return f"endpoint   {endpoint['id']} is stopped"
    pending = "; to be restarted when idle" if endpoint["restart_pending"] else ""
    boot = f"started at boot by {endpoint['at_boot']}"
    if endpoint["at_boot"] == "login":
        boot = "until its user logs out: `loginctl enable-linger` was refused"
    return (
        f"endpoint   {endpoint['id']} runs since {endpoint['since']} (process {endpoint['pid']}, "
        f"kept by {endpoint['kept_by']}, {boot}){pending}"
    )
