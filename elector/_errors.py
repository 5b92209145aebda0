"""The elector's errors: one small tree.

Callers need to tell three things apart, and nothing more: what the person who configured us did wrong (`SettingsError`: say
it, exit 2), a request that certainly had no effect (`NotSent`), and one that may have had its effect, now or later
(`OutcomeUnknown`: read back before believing anything). No error carries a token or a body.
"""

__all__ = [
    "CredentialsError",
    "ElectorError",
    "NotSent",
    "OutcomeUnknown",
    "ServeError",
    "SettingsError",
    "TransportError",
    "WatchRefused",
]


class ElectorError(Exception):
    """Any error of the elector's own."""


class SettingsError(ElectorError):
    """A setting has a value that is not allowed; the message names it, its value and what is allowed."""


class CredentialsError(ElectorError):
    """What is needed to reach the API server (address, CA, token, certificate) is missing or unreadable."""


class ServeError(ElectorError):
    """The HTTP server cannot listen where it was told to."""


class TransportError(ElectorError):
    """A request to the API server brought no usable reply."""


class NotSent(TransportError):
    """The request certainly did not reach the API server: no connection, TLS refused, no credentials."""


class OutcomeUnknown(TransportError):
    """The request may have been carried out, or may still be: time-out, connection lost after sending, broken reply."""


class WatchRefused(TransportError):
    """The API server answered a watch with something other than 200; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
