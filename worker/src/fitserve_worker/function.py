"""Register fitserve's function with Globus Compute, and remember its id.

An endpoint lets only the functions run that its configuration lists. The site's
administrator registers this one, once for all releases: its source does not change with
them (`fitserve_contract.codec`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import platformdirs

from fitserve_contract import FUNCTION_DIGEST, FUNCTION_NAME, FUNCTION_SOURCE
from fitserve_contract.errors import BackendError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from globus_compute_sdk import Client

__all__ = ["Registration", "known", "register"]

_PRIVATE = "private"
_GONE = (403, 404)


class Registration(msgspec.Struct, frozen=True):
    """A registered function: who may call it (``public``, ``private`` or a group) and its id."""

    digest: str
    sharing: str
    function_id: str


def known() -> list[Registration]:
    """Return the registrations of the present source that were made from this account.

    Raises
    ------
    StoreError
        The record of them cannot be read.
    """
    return [one for one in _read() if one.digest == FUNCTION_DIGEST]


def register(*, public: bool = False, group: str | None = None) -> Registration:
    """Return fitserve's function registered so that the site's users may call it.

    One that was registered before with the same sharing and still exists is not registered again.

    Parameters
    ----------
    public
        Anyone may call it; which endpoint runs it is decided by the endpoint.
    group
        Id of a Globus group whose members may call it. Without either only the account
        that registers it may.

    Raises
    ------
    BackendError
        The service does not answer, or refuses.
    StoreError
        The id cannot be remembered.
    """
    sharing = "public" if public else group or _PRIVATE
    client = _client()
    for earlier in known():
        if earlier.sharing == sharing and _exists(client, earlier.function_id):
            return earlier
    function_id = _register(client, public=public, group=group)
    registration = Registration(FUNCTION_DIGEST, sharing, function_id)
    kept = [one for one in _read() if (one.digest, one.sharing) != (FUNCTION_DIGEST, sharing)]
    _write([*kept, registration])
    return registration


def _client() -> Client:
    try:
        from globus_compute_sdk import Client
    except ImportError as error:
        raise BackendError(
            "registering a function needs globus-compute-sdk, which is not installed",
            hint='pip install "globus-compute-sdk>=4,<5"',
        ) from error
    try:
        client = Client()
    except Exception as error:
        raise _failure(error) from error
    if client.app is not None and client.app.login_required():
        raise BackendError(
            "you are not logged in to Globus",
            hint="globus-compute-endpoint login, or set GLOBUS_COMPUTE_CLIENT_ID and "
            "GLOBUS_COMPUTE_CLIENT_SECRET",
        )
    return client


def _exists(client: Client, function_id: str) -> bool:
    from globus_sdk import GlobusAPIError

    try:
        client.get_function(function_id)
    except GlobusAPIError as error:
        if error.http_status in _GONE:
            return False
        raise _failure(error) from error
    except Exception as error:
        raise _failure(error) from error
    return True


def _register(client: Client, *, public: bool, group: str | None) -> str:
    try:
        registered: str = client.register_source_code(
            FUNCTION_SOURCE,
            FUNCTION_NAME,
            description="fitserve: fits a task's signal hypotheses with the site's fitserve-worker",
            public=public,
            group=group,
        )
    except Exception as error:
        raise _failure(error) from error
    return registered


def _failure(error: Exception) -> BackendError:
    return BackendError(
        "Globus Compute does not register the function",
        evidence=f"{type(error).__name__}: {error}",
        hint="look at https://status.globus.org, and at `globus-compute-endpoint whoami`",
    )


def _file() -> Path:
    return platformdirs.user_config_path("fitserve") / "functions.json"


def _read() -> list[Registration]:
    path = _file()
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Registration])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(
            f"{path} cannot be read", evidence=str(error), hint="repair it or remove it"
        ) from error


def _write(registrations: list[Registration]) -> None:
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(registrations), indent=2) + b"\n")
        part.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written",
            evidence=str(error),
            hint=f"note the id: {registrations[-1].function_id}",
        ) from error
