"""The controller's errors. All that the API server or the network does is tried again: none of these ends the process,
except `CannotRun`."""

from __future__ import annotations

from webhook._errors import WebhookError

__all__ = ["CannotRun", "ClusterError", "Conflict", "UnusableCertificate"]


class CannotRun(WebhookError):
    """It is not known how to reach the API server, or the status address is taken."""


class ClusterError(WebhookError):
    """A request to the API server failed or was refused; the message names the request, never a body."""


class Conflict(ClusterError):
    """The object was changed, created or deleted by somebody else since it was read: read it again."""


class UnusableCertificate(WebhookError):
    """What is stored is no certificate and key that could be served with, or no authority."""
