"""A real Kubernetes control plane on this machine, for the demo, the tests and the benchmarks.

    with Sandbox.start() as sandbox:
        sandbox.api  # a client of the API server, as its administrator

Nothing heavier than the standard library is imported here: the keeper, which lives as long as a sandbox, is part of this
package and should stay small.
"""

from sandbox._build import binaries
from sandbox._errors import SandboxError
from sandbox._keeper_client import Program
from sandbox._sandbox import Sandbox

__all__ = ["Program", "Sandbox", "SandboxError", "binaries"]
