"""What the control plane and the node are made of. A change here is a new folder in the cache, and a new build."""

import re

__all__ = ["CONTAINERD", "ETCD", "GO_AT_LEAST", "HELM", "KUBERNETES", "parse_go_version"]

KUBERNETES = "1.36.3"
ETCD = "v3.6.7"
CONTAINERD = "v2.4.2"
HELM = "v4.3.1"

GO_AT_LEAST = (1, 26)
"""The oldest Go that compiles these versions, (major, minor): the `go` line of Kubernetes' own go.mod."""


def parse_go_version(text: str) -> tuple[int, int] | None:
    """(major, minor) out of what `go env GOVERSION` or `go version` prints; None when there is no version in it.

    Release candidates, patch levels, vendor suffixes and development versions (`devel go1.27-0a1b2c`) are understood.
    """
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None
