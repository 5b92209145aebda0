"""The elector for programs that stand for election themselves: what other packages may use of it.

    election = Election(EndpointsLock(transport, namespace, name), identity, instance, Timing.of(10.0), SystemClock(), Random())

Kept apart from the package's own namespace, so that `elector --help` and a wrong flag need none of it.
"""

from elector import __version__
from elector._clock import Clock, SystemClock
from elector._connection import KubeTransport
from elector._credentials import DEFAULT_DIRECTORY, DIRECTORY_VARIABLE, ClusterCredentials, from_kubeconfig, in_cluster
from elector._election import Election
from elector._errors import CredentialsError, ElectorError
from elector._objects import INSTANCE, RECORD, TOKEN, EndpointsLock, LeaseLock
from elector._record import PLACEHOLDER, Malformed, Record, format_time, parse_record
from elector._timing import Timing
from elector._view import Sidecar, View

__all__ = [
    "DEFAULT_DIRECTORY",
    "DIRECTORY_VARIABLE",
    "INSTANCE",
    "PLACEHOLDER",
    "RECORD",
    "TOKEN",
    "Clock",
    "ClusterCredentials",
    "CredentialsError",
    "Election",
    "ElectorError",
    "EndpointsLock",
    "KubeTransport",
    "LeaseLock",
    "Malformed",
    "Record",
    "Sidecar",
    "SystemClock",
    "Timing",
    "View",
    "__version__",
    "format_time",
    "from_kubeconfig",
    "in_cluster",
    "parse_record",
]
