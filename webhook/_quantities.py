"""Kubernetes quantities (`100m`, `64Mi`, `1e3`), as far as they must be compared.

See https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

__all__ = ["parse_quantity"]

_QUANTITY = re.compile(
    r"(?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[-+]?[0-9]{1,2}))?"
)
_SUFFIXES = {f"{letter}i": Decimal(1024**power) for power, letter in enumerate("KMGTPE", 1)} | {
    letter: Decimal(10) ** (3 * power) for power, letter in enumerate("num kMGTPE", -3) if letter != " "
}


def parse_quantity(value: Any) -> Decimal:
    """The quantity as a number; JSON and YAML may also hold it as a number. Raises `ValueError` when it is none."""
    match = _QUANTITY.fullmatch(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    if match is None:
        raise ValueError("not a quantity")
    number = Decimal(match["number"])
    if match["suffix"]:
        return number * _SUFFIXES[match["suffix"]]
    return number.scaleb(int(match["exponent"] or 0))
