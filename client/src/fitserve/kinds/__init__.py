"""Kinds of question: one file each, with all that the client does with it.

That is its options, how long it takes, what an answer must hold, and what is shown of it: in
tables, exports and reports, and in which pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitserve.kinds.fit import Fit
from fitserve.kinds.hypotest import Hypotest
from fitserve.kinds.limit import Limit
from fitserve.kinds.ranking import Ranking
from fitserve.kinds.scan import Scan
from fitserve.kinds.toys import Toys
from fitserve_contract import kind_of

if TYPE_CHECKING:
    from fitserve.kinds.base import Kind
    from fitserve_contract import Request

__all__ = ["KINDS", "kind"]

KINDS: dict[str, Kind[Any]] = {
    one.name: one for one in (Hypotest(), Limit(), Scan(), Fit(), Ranking(), Toys())
}
"""Kinds by name, in the order of `--help`; the first is the default."""


def kind(request: Request) -> Kind[Any]:
    """Return the kind of a request.

    Examples
    --------
    >>> from fitserve_contract import LimitRequest
    >>> kind(LimitRequest())
    <kind limit>
    """
    return KINDS[kind_of(request)]
