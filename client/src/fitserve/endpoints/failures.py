"""What goes wrong between this user and the service, in terms to act upon."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal, NamedTuple

from fitserve.errors import BackendError, FitserveError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Failure", "explain", "judge"]

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

    ``kind`` says what it means for what was asked: ``later`` it may work, the request is
    ``large``, what it is about is ``gone``, or it is ``refused``.
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
