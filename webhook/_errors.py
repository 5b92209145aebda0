"""The webhook's errors: one small tree.

Who has to act differs, and so does the answer: the person who configured us (`SettingsError`: usage, exit 2), the one
who runs us (`ServeError`, `ManifestError`: one line, exit 1), the API server or whoever posed as it (`MalformedReview`:
HTTP 400), and the author of the pod (`Denied`: the pod is refused with every reason at once).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Denied", "MalformedReview", "ManifestError", "ServeError", "SettingsError", "WebhookError", "quoted"]


class WebhookError(Exception):
    """Any error of the webhook's own."""


class SettingsError(WebhookError):
    """A setting has a value that is not allowed; the message names it, its value and what is allowed."""


class ServeError(WebhookError):
    """The server cannot be started: its certificate is unusable or its address is taken."""


class MalformedReview(WebhookError):
    """What was sent is not an AdmissionReview of a pod; the message says in one sentence why."""


class ManifestError(WebhookError):
    """A file of manifests cannot be read, understood or written; the message says in one line why."""


class Denied(WebhookError):
    """The pod asks for an election that it cannot get; `problems` holds every reason, each without a full stop.

    `code` says in one word where they lie: `annotations`, `name`, `conflict`, `resources`, or `several` of these.
    """

    def __init__(self, code: str, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.code = code
        self.problems = tuple(problems)


def quoted(value: object, longest: int = 64) -> str:
    """`value` as it may stand in a message or a log line: in quotes, control characters escaped, cut after `longest`
    characters (an annotation may hold 256 KiB)."""
    text = str(value)
    if len(text) > longest:
        text = f"{text[:longest]}..."
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f'"{text}"'
