"""The sandbox's one error."""

__all__ = ["SandboxError"]


class SandboxError(Exception):
    """The sandbox cannot do what was asked; the message is written for the person who asked and needs no traceback."""
