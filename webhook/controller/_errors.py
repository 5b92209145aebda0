"""The controller's errors. All that the API server or the network does is tried again: none of these ends the process,
except `CannotRun`."""

from __future__ import annotations

from webhook._errors import WebhookError

__all__ = ["CannotRun", "ClusterError", "Conflict", "Expired", "Refused", "UnusableCertificate"]


class CannotRun(WebhookError):
    """It is not known how to reach the API server, or the status address is taken."""


class ClusterError(WebhookError):
    """A request to the API server failed or was refused; the message names the request, never a body."""


class Conflict(ClusterError):
    """The object was changed, created or deleted by somebody else since it was read: read it again."""


class Expired(ClusterError):
    """The API server no longer knows what happened since then: list again."""


class Refused(ClusterError):
    """The API server refuses the request (rights, a policy, a quota, a namespace that is being deleted); `status` says how."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnusableCertificate(WebhookError):
    """What is stored is no certificate and key that could be served with, or no authority."""
