"""The Globus Compute service as one user reaches it: login, and what an endpoint says.

Nothing here is imported before an endpoint of the service is used: the SDK takes a second.
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from fitserve.contract import FUNCTION_NAME, FUNCTION_SOURCE
from fitserve.endpoints.failures import explain
from fitserve.errors import BackendError, MissingExtraError

if TYPE_CHECKING:
    from globus_compute_sdk import Client
    from globus_sdk import GlobusApp

__all__ = ["Identity", "Service", "log_in", "log_out", "quiet_sdk"]

_CLIENT_VARIABLES = ("GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET")


class Identity(NamedTuple):
    """Who this user is for Globus, and by which kind of login."""

    username: str
    id: str
    login: str


class Service:
    """A connection with the user's login.

    Raises
    ------
    BackendError
        There is no login, or the service does not answer.
    MissingExtraError
        The SDK is not installed.
    """

    def __init__(self) -> None:
        app = _app()
        with explain("using your login"):
            needed = app.login_required()
        if needed:
            raise BackendError(
                "you are not logged in to Globus",
                hint=f"fitserve endpoints login, or set {' and '.join(_CLIENT_VARIABLES)}",
            )
        self.client = _client(app)

    def whoami(self) -> Identity:
        """Return who is logged in.

        Raises
        ------
        BackendError
            The login is not accepted any more, or the service does not answer.
        """
        return _identity(_required(self.client))

    def endpoint_status(self, endpoint: str) -> tuple[bool, dict[str, Any]]:
        """Return whether an endpoint is online and what it last said about itself."""
        with explain(f"the state of endpoint {endpoint}"):
            answer = self.client.get_endpoint_status(endpoint)
        return answer["status"] == "online", dict(answer.get("details") or {})

    def allowed_functions(self, endpoint: str) -> list[str] | None:
        """Return the ids of the functions that an endpoint runs, or None for any."""
        with explain(f"the functions that endpoint {endpoint} allows"):
            answer = self.client.get_allowed_functions(endpoint)
        return list(answer["functions"]) if answer["restricted"] else None

    def function_source(self, function: str) -> str:
        """Return the registered code of a function, if this user may call it."""
        with explain(f"function {function}"):
            return str(self.client.get_function(function).get("function_code", ""))

    def function_for(self, endpoint: str, given: str | None) -> str:
        """Return the id of the function to call on an endpoint.

        It is the one that the site's card gives, else the only one that the endpoint allows,
        else fitserve's, registered for this user alone.

        Raises
        ------
        BackendError
            The endpoint allows several functions and the card does not say which.
        """
        if given is not None:
            return given
        listed = self.allowed_functions(endpoint)
        if listed is None:
            with explain("registering fitserve's function"):
                return str(self.client.register_source_code(FUNCTION_SOURCE, FUNCTION_NAME))
        if len(listed) == 1:
            return listed[0]
        raise BackendError(
            "it is not known which function the endpoint runs",
            evidence=f"it allows {', '.join(listed) or 'none'}",
            hint="add the endpoint by the site's card: fitserve endpoints add NAME --card FILE",
        )


def log_in() -> Identity:
    """Log in, in a browser or with client credentials, and return who that is.

    Raises
    ------
    BackendError
        The login is refused, or the service does not answer.
    """
    app = _app()
    client = _client(app)
    with explain("logging in"):
        if app.login_required():
            app.login()
    return _identity(_required(client))


def log_out() -> None:
    """Forget the login and revoke its tokens.

    Raises
    ------
    BackendError
        The service does not answer; the tokens may still be valid.
    """
    app = _app()
    _client(app)
    with explain("logging out"):
        app.logout()


def quiet_sdk() -> None:
    """Keep the SDK's own messages off the user's terminal; what they say is told by fitserve.

    It warns where client and worker have different versions of Python, which matters for
    pickled functions and not for text.
    """
    for name in ("globus_compute_sdk", "globus_sdk", "pika"):
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    warnings.filterwarnings(
        "ignore", message=r"\s*Environment differences detected", category=UserWarning
    )


def _app() -> GlobusApp:
    try:
        from globus_compute_sdk.sdk.auth.globus_app import get_globus_app
    except ImportError as error:
        raise MissingExtraError("an endpoint of Globus Compute", "globus") from error
    quiet_sdk()
    given = [name for name in _CLIENT_VARIABLES if os.environ.get(name)]
    if given == [_CLIENT_VARIABLES[1]]:
        raise BackendError(
            "there is a client secret without its client id",
            evidence=f"{_CLIENT_VARIABLES[1]} is set, {_CLIENT_VARIABLES[0]} is not",
            hint="set both, or neither",
        )
    return get_globus_app()


def _client(app: GlobusApp) -> Client:
    from globus_compute_sdk import Client
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect
    from globus_sdk import AuthClient

    # So that a login also covers asking who one is.
    app.add_scope_requirements({AuthClient.resource_server: AuthClient.default_scope_requirements})
    with explain("connecting"):
        client = Client(app=app, do_version_check=False)
    # Only text, either way: a result that is a pickle is refused here.
    client.fx_serializer = ComputeSerializer(
        strategy_code=PureSourceTextInspect,
        strategy_data=JSONData,
        allowed_deserializer_types=[PureSourceTextInspect, JSONData],
    )
    return client


def _required(client: Client) -> GlobusApp:
    if client.app is None:  # pragma: no cover - `_client` always gives one
        raise BackendError("the SDK has no login")
    return client.app


def _identity(app: GlobusApp) -> Identity:
    from globus_sdk import AuthClient, ClientApp

    with explain("who you are"):
        info = AuthClient(app=app).userinfo()
    kind = "client credentials" if isinstance(app, ClientApp) else "browser login"
    return Identity(str(info.get("preferred_username") or info["username"]), info["sub"], kind)
