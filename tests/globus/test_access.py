"""Who may do what: logins, shared functions, multi-user endpoints, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fitserve_contract import FUNCTION_SOURCE, encode_task
from globusrig.client import FIT, Client, complete
from globusrig.processes import AMQP_PORT
from globusrig.rig import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fitserve_contract import Task
    from globusrig.rig import Account, Rig

pytestmark = [pytest.mark.globus, pytest.mark.timeout(240)]


# -- logins ------------------------------------------------------------------------------------


def test_client_credentials(client: Client, rig: Rig) -> None:
    told = client("endpoints", "login").stderr
    assert told == f"you are {rig.admin.username} ({rig.admin.id}), by client credentials\n"
    client("endpoints", "logout")
    assert rig.admin.id in client("endpoints", "whoami", "--json").stdout
    client("endpoints", "logout")
    client.environment["GLOBUS_COMPUTE_CLIENT_SECRET"] = "wrong"  # noqa: S105
    wrong = client("endpoints", "whoami", status=5).stderr
    assert "Globus does not accept your login" in wrong
    del client.environment["GLOBUS_COMPUTE_CLIENT_ID"]
    assert "a client secret without its client id" in client("endpoints", "whoami", status=5).stderr


def test_browser_login(client: Client, rig: Rig) -> None:
    """The code is what a browser shows in the end; here the stand-in gives it."""
    for name in ("GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET"):
        del client.environment[name]
    before = client("run", "example", *FIT, "-e", "rig", "-o", "run", status=5).stderr
    assert "you are not logged in to Globus" in before
    assert "next: fitserve endpoints login" in before
    code = rig.ask("code", {"identity": rig.user.id})["code"]
    told = client("endpoints", "login", stdin=f"{code}\n")
    assert "Please authenticate with Globus here" in told.stdout
    assert f"you are {rig.user.username} ({rig.user.id}), by browser login" in told.stderr
    assert rig.user.username in client("endpoints", "whoami").stdout
    rig.ask("expire", {})
    assert rig.user.username in client("endpoints", "whoami").stdout  # refreshed
    client("endpoints", "logout")
    assert "you are not logged in" in client("endpoints", "whoami", status=5).stderr


# -- functions ---------------------------------------------------------------------------------


def _register(account: Account, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fitserve_worker", "function", "register", *options],
        env=account.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_function_is_registered_once_for_each_sharing(rig: Rig, function: str) -> None:
    assert _register(rig.admin, "--public") == function
    group = _register(rig.admin, "--group", rig.group)
    private = _register(rig.admin)
    assert len({function, group, private}) == 3
    shown = subprocess.run(
        [sys.executable, "-m", "fitserve_worker", "function", "show"],
        env=rig.admin.environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.startswith(FUNCTION_SOURCE)
    assert all(f"{one}  " in shown for one in (function, group, private))


# -- a multi-user endpoint ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_endpoint(rig: Rig, venv: Path, function: str) -> Iterator[Endpoint]:
    """Return a root endpoint for the site's identities, which become local accounts."""
    if os.getuid():
        message = "a multi-user endpoint is started by root"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    group = _register(rig.admin, "--group", rig.group)
    mapping = {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": "(.*)@site\\.example", "output": "{0}"}],
    }
    (rig.directory / "mapping.json").write_text(json.dumps([mapping]))
    access = {
        "mode": "multi-user",
        "functions": [function, group],
        "authentication_policy": rig.policy,
        "identity_mapping": str(rig.directory / "mapping.json"),
    }
    fields = {"access": access, "contact": "mailto:help@site.example"}
    endpoint = Endpoint(rig, venv, "shared", fields=fields, as_root=True)
    try:
        endpoint.start()
        yield endpoint
    finally:
        endpoint.stop()


@pytest.fixture
def user(rig: Rig, shared_endpoint: Endpoint, tmp_path: Path) -> Iterator[Client]:
    """Return a client of a user whom the site knows."""
    client = Client(rig, rig.user, tmp_path)
    client.add("shared", shared_endpoint)
    yield client
    client.close()


def test_a_user_is_served_under_their_own_account(
    user: Client, shared_endpoint: Endpoint, mu: tuple[str, str], tmp_path: Path
) -> None:
    user("run", "example", "--patch", "X_600_0", *mu, "-e", "shared", "-o", tmp_path / "run")
    complete(tmp_path / "run")
    owners = {process.username() for process in shared_endpoint.processes("process_worker_pool")}
    assert owners == {"nobody"}


def test_an_identity_without_account_is_told_so(
    rig: Rig, shared_endpoint: Endpoint, tmp_path: Path
) -> None:
    # The policy lets it in and the mapping has an account for it that is not there.
    client = Client(rig, rig.admin, tmp_path)
    client.add("shared", shared_endpoint)
    told = client("run", "example", "--patch", "X_600_0", "-e", "shared", status=5).stderr
    assert "the site has no account for your Globus identity" in told
    assert "next: log in with an identity of the site" in told


def test_an_identity_outside_the_policy_is_refused(
    rig: Rig, shared_endpoint: Endpoint, tmp_path: Path
) -> None:
    client = Client(rig, rig.stranger, tmp_path)
    client.add("shared", shared_endpoint)
    told = client("run", "example", "--patch", "X_600_0", "-e", "shared", status=5).stderr
    assert "you may not do this on this endpoint" in told
    assert "authentication policy" in told


def test_a_bad_option_is_refused_by_the_endpoint_too(
    user: Client, shared_endpoint: Endpoint
) -> None:
    """A card made of an endpoint's id alone knows no options: the endpoint checks them."""
    assert shared_endpoint.id is not None
    card = shared_endpoint.id
    user("endpoints", "add", "bare", "--card", card, "--amqp-port", AMQP_PORT)
    several = user("run", "example", "--patch", "X_600_0", "-e", "bare", status=5).stderr
    assert "it is not clear which function the endpoint runs" in several
    prelude = (
        "import fitserve.endpoints.globus.backend as b\n"
        "b.check_options = lambda card, given: {'max_blocks': 7}"
    )
    command = ("run", "example", "--patch", "X_600_0", "-e", "shared")
    told = user(*command, status=5, prelude=prelude).stderr
    assert "the site refuses one of the options" in told


# -- what is not fitserve ------------------------------------------------------------------------

_RAW = """
import json, os, sys
from globus_compute_sdk import Client, Executor
from globus_compute_sdk.serialize import {code}, {data}
endpoint, port = sys.argv[1:3]

def intruder(task):
    import os
    return str(os.listdir("/"))

client = Client(code_serialization_strategy={code}(), data_serialization_strategy={data}())
executor = Executor(endpoint_id=endpoint, client=client, amqp_port=int(port))
function = {function}
try:
    print("RAN", executor.submit_to_registered_function(function, ("x",)).result(60))
except BaseException as error:
    print("REFUSED", type(error).__name__, getattr(error, "raw_json", None) or error)
sys.stdout.flush()
os._exit(0)
"""


def _raw(rig: Rig, endpoint: Endpoint, **parts: str) -> str:
    program = _RAW.format(**parts)
    done = subprocess.run(
        [sys.executable, "-c", program, str(endpoint.id), str(AMQP_PORT)],
        env=rig.admin.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.stdout


def test_another_function_does_not_run(rig: Rig, endpoint: Endpoint) -> None:
    register = "client.register_function(intruder)"
    # The program has no file: its source cannot be inspected, and dill takes it from memory.
    said = _raw(rig, endpoint, code="DillCode", data="JSONData", function=register)
    assert "REFUSED" in said
    assert "not permitted" in said


def test_a_pickle_is_not_opened(rig: Rig, endpoint: Endpoint, function: str) -> None:
    said = _raw(rig, endpoint, code="DillCode", data="DillDataBase64", function=repr(function))
    assert "REFUSED TaskExecutionFailed" in said
    assert "disabled by current configuration" in " ".join(said.split())


def test_the_worker_takes_only_tasks(task: Task) -> None:
    """The function's source, run as an endpoint runs it, is the worker and nothing else."""
    namespace: dict = {}
    exec(FUNCTION_SOURCE, namespace)  # noqa: S102
    assert '"fitserve":"refusal"' in namespace["fitserve_run"]("import os")
    assert '"fitserve":"result"' in namespace["fitserve_run"](encode_task(task))
