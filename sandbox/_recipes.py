"""How each binary is built from Go modules. Another binary is another entry here and, for a new project, a module."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from sandbox._versions import CONTAINERD, ETCD, HELM, KUBERNETES

__all__ = ["CHART_TOOLS", "CONTROL_PLANE", "NODE", "Module", "Recipe"]


@dataclass(frozen=True)
class Module:
    """A module made up for building: programs of other modules, in versions and with replacements that we state."""

    name: str
    requires: str | None
    """The module needed, `PATH@VERSION`; None when it needs the standard library only."""
    go_mod: Callable[[str], str]
    """Makes our go.mod out of the needed module's own (`""` when there is none)."""
    main_go: str | None = None


@dataclass(frozen=True)
class Recipe:
    """One binary."""

    name: str
    module: Module
    package: str
    linker_flags: str


def _kubernetes_go_mod(theirs: str) -> str:
    """k8s.io/kubernetes points its libraries into its own repository, which counts only where it is the main module.

    So we state the same libraries in their published versions (v0.X.Y for Kubernetes 1.X.Y), and its language and
    compatibility settings, which also come from the main module alone.
    """
    libraries = re.findall(r"^\s*(k8s\.io/\S+) => \./staging/", theirs, re.MULTILINE)
    settings = re.findall(r"^(?:go|godebug) \S.*$", theirs, re.MULTILINE)
    blocks = re.findall(r"^godebug \(.*?^\)$", theirs, re.MULTILINE | re.DOTALL)
    published = f"v0.{KUBERNETES.removeprefix('1.')}"
    return "\n".join(
        [
            "module sandbox/kubernetes",
            *[line for line in settings if not line.startswith("godebug (")],
            *blocks,
            f"require k8s.io/kubernetes v{KUBERNETES}",
            *[f"replace {library} => {library} {published}" for library in libraries],
            "",
        ]
    )


def _etcd_go_mod(theirs: str) -> str:
    settings = re.findall(r"^go \S+$", theirs, re.MULTILINE)
    return "\n".join(["module sandbox/etcd", *settings, f"require go.etcd.io/etcd/server/v3 {ETCD}", ""])


def _helm_go_mod(theirs: str) -> str:
    settings = re.findall(r"^go \S+$", theirs, re.MULTILINE)
    return "\n".join(["module sandbox/helm", *settings, f"require helm.sh/helm/v4 {HELM}", ""])


def _containerd_go_mod(theirs: str) -> str:
    settings = re.findall(r"^go \S+$", theirs, re.MULTILINE)
    return "\n".join(["module sandbox/containerd", *settings, f"require github.com/containerd/containerd/v2 {CONTAINERD}", ""])


_ETCD_MAIN = """package main

import (
\t"os"

\t"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
"""

# What holds a pod's network namespace: pid 1 of the pod's first container, so it also waits for orphans.
_PAUSE_MAIN = """package main

import (
\t"os"
\t"os/signal"
\t"syscall"
)

func main() {
\tsignals := make(chan os.Signal, 16)
\tsignal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
\tfor received := range signals {
\t\tif received != syscall.SIGCHLD {
\t\t\treturn
\t\t}
\t\tfor {
\t\t\tif pid, _ := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 {
\t\t\t\tbreak
\t\t\t}
\t\t}
\t}
}
"""

_ETCD = Module("etcd", f"go.etcd.io/etcd/server/v3@{ETCD}", _etcd_go_mod, _ETCD_MAIN)
_KUBERNETES = Module("kubernetes", f"k8s.io/kubernetes@v{KUBERNETES}", _kubernetes_go_mod)
_CONTAINERD = Module("containerd", f"github.com/containerd/containerd/v2@{CONTAINERD}", _containerd_go_mod)
_PAUSE = Module("pause", None, lambda _: "module sandbox/pause\n\ngo 1.24\n", _PAUSE_MAIN)
_HELM = Module("helm", f"helm.sh/helm/v4@{HELM}", _helm_go_mod)


def _kubernetes_linker_flags() -> str:
    """Strip, and set the version that the programs report (else v0.0.0, which clients and admission policies see)."""
    major, minor, _ = KUBERNETES.split(".")
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    packages = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"]
    return " ".join(["-s -w", *[f"-X {package}.{key}={value}" for package in packages for key, value in values.items()]])


def _of_kubernetes(name: str) -> Recipe:
    return Recipe(name, _KUBERNETES, f"k8s.io/kubernetes/cmd/{name}", _kubernetes_linker_flags())


CONTROL_PLANE = (
    Recipe("etcd", _ETCD, ".", "-s -w"),
    _of_kubernetes("kube-apiserver"),
    _of_kubernetes("kube-controller-manager"),
)

NODE = (
    *CONTROL_PLANE,
    *(_of_kubernetes(name) for name in ("kube-scheduler", "kubelet", "kube-proxy", "kubectl")),
    *(
        Recipe(name, _CONTAINERD, f"github.com/containerd/containerd/v2/cmd/{name}", "-s -w")
        for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    ),
    Recipe("pause", _PAUSE, ".", "-s -w"),
)
"""A control plane and a node, and what a person uses them with."""

CHART_TOOLS = (Recipe("helm", _HELM, "helm.sh/helm/v4/cmd/helm", "-s -w"),)
"""What the tests of the chart need besides; built when they first run."""
