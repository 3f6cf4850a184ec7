"""The Globus Compute service as one user reaches it: login, endpoints, and what goes wrong.

Nothing here is imported before an endpoint of the service is used: the SDK takes a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fitserve.errors import BackendError, FitserveError, MissingExtraError
from fitserve_contract import FUNCTION_NAME, FUNCTION_SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from globus_compute_sdk import Client
    from globus_sdk import GlobusApp

__all__ = ["Failure", "Identity", "Service", "explain", "judge", "log_in", "log_out", "quiet_sdk"]

_UNAUTHORIZED = 401
_FORBIDDEN = 403
_NOT_FOUND = 404
_TOO_LARGE = 413
_UNPROCESSABLE = 422
_TOO_MANY = 429
_SERVER = 500

_SERVICE_HINT = "see https://status.globus.org, then try again"
_LOGIN_HINT = "fitserve endpoints login, or check the client credentials in your environment"


_Kind = Literal["later", "large", "gone", "refused"]


class Failure(NamedTuple):
    """An error of the service or of the way to it.

    ``kind`` is what it means for the request: it may work ``later``, is too ``large``, its object
    is ``gone``, or it is ``refused``.
    """

    kind: _Kind
    error: BackendError


def judge(error: BaseException, doing: str = "the request") -> Failure:
    """Say what an exception of the SDK means."""
    import globus_sdk

    if isinstance(error, BackendError):
        return Failure("refused", error)
    if isinstance(error, globus_sdk.AuthAPIError):
        return _auth(error)
    if isinstance(error, globus_sdk.GlobusAPIError):
        return _api(error, doing)
    if isinstance(error, globus_sdk.NetworkError | OSError):
        return Failure(
            "later",
            BackendError(
                "the Globus Compute service does not answer",
                evidence=_text(error),
                hint="check your network, and https://status.globus.org",
            ),
        )
    if isinstance(error, globus_sdk.GlobusError):
        # What the SDK raises for a login that it cannot use: no token, another identity ...
        return Failure(
            "refused",
            BackendError(
                "your Globus login cannot be used", evidence=_text(error), hint=_LOGIN_HINT
            ),
        )
    return Failure("refused", BackendError(f"{doing} failed", evidence=_text(error)))


@contextlib.contextmanager
def explain(doing: str) -> Iterator[None]:
    """Raise what goes wrong inside as a `BackendError`.

    Raises
    ------
    BackendError
        With the cause in a user's terms.
    """
    try:
        yield
    except FitserveError:
        raise
    except Exception as error:
        raise judge(error, doing).error from error


def _auth(error: object) -> Failure:
    status = getattr(error, "http_status", 0)
    if status == _TOO_MANY or status >= _SERVER:
        return Failure(
            "later",
            BackendError("Globus Auth does not answer", evidence=_text(error), hint=_SERVICE_HINT),
        )
    return Failure(
        "refused",
        BackendError("Globus does not accept your login", evidence=_text(error), hint=_LOGIN_HINT),
    )


_MEANINGS: dict[int, tuple[_Kind, str, str]] = {
    _UNAUTHORIZED: ("refused", "your Globus login has expired", _LOGIN_HINT),
    _FORBIDDEN: (
        "refused",
        "you may not do this on this endpoint",
        "ask the site's administrator for access: fitserve endpoints list shows whom",
    ),
    _NOT_FOUND: (
        "gone",
        "the service does not know {doing}",
        "ask the site's administrator for its present site card",
    ),
    _TOO_LARGE: ("large", "a submission is too large", ""),
    _UNPROCESSABLE: (
        "refused",
        "the site cannot start your endpoint there",
        "fitserve endpoints check NAME, and show this to the site's administrator",
    ),
    _TOO_MANY: ("later", "the service wants fewer requests", ""),
}


def _api(error: object, doing: str) -> Failure:
    status = getattr(error, "http_status", 0)
    default: tuple[_Kind, str, str] = ("refused", "the service refuses {doing}", "")
    if status >= _SERVER:
        default = ("later", "the Globus Compute service has trouble", _SERVICE_HINT)
    kind, cause, hint = _MEANINGS.get(status, default)
    return Failure(kind, BackendError(cause.format(doing=doing), evidence=_text(error), hint=hint))


def _text(error: object) -> str:
    status = getattr(error, "http_status", None)
    said = getattr(error, "raw_json", None)
    reason = said.get("reason") if isinstance(said, dict) else None
    reason = reason or getattr(error, "message", None) or str(error) or type(error).__name__
    return f"{status}: {reason}" if status else f"{type(error).__name__}: {reason}"


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
            "it is not clear which function the endpoint runs",
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
    """Keep the SDK's own messages off the user's terminal; fitserve reports their content.

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
