"""Reading JSON whose shape nobody has checked: absent and null are empty, anything else of the wrong type is malformed.

The API server sends well-formed pods; this guards against everybody else, without a model of the whole pod (which would
take longer than the rest of the work).
"""

from __future__ import annotations

from typing import Any

from webhook._errors import MalformedReview, quoted

__all__ = ["items", "mapping", "strings"]


def mapping(value: Any, where: str) -> dict[str, Any]:
    """`value` as an object; `where` names it in the error. Raises `MalformedReview`."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedReview(f"{where} is not an object")
    return value


def items(value: Any, where: str) -> list[dict[str, Any]]:
    """`value` as a list of objects; `where` names it in the error. Raises `MalformedReview`."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedReview(f"{where} is not a list")
    for item in value:
        if not isinstance(item, dict):
            raise MalformedReview(f"{where} holds something that is not an object")
    return value


def strings(value: Any, where: str) -> dict[str, str]:
    """`value` as an object that holds only strings; `where` names it in the error. Raises `MalformedReview`."""
    found = mapping(value, where)
    for key, text in found.items():
        if not isinstance(text, str):
            # In manifests, the most common of all mistakes: `leader-election/enabled: true`.
            raise MalformedReview(f"{where}: {quoted(key)} has a value that is not a string: put it in quotes")
    return found
