"""The command lines of a node: kube-scheduler, containerd, kubelet and kube-proxy, in namespaces of their own."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox import _cgroups, _kubeconfig
from sandbox._control_plane import ControlPlane
from sandbox._errors import SandboxError
from sandbox._namespaces import MEMORY, NODE_ADDRESS, POD_ADDRESSES
from sandbox._packages import search_path

__all__ = ["CONTAINERD", "KUBELET", "KUBE_PROXY", "NODE_NAME", "PAUSE_IMAGE", "SCHEDULER", "Node"]

SCHEDULER = "kube-scheduler"
CONTAINERD = "containerd"
KUBELET = "kubelet"
KUBE_PROXY = "kube-proxy"

NODE_NAME = "node"
PAUSE_IMAGE = "localhost/pause:1"
"""The image that holds a pod's namespaces."""

_PLUGINS = "/usr/lib/cni"
_POLL = 0.05


class Node:
    """The files and the command lines of one node in a sandbox's folder. Starts nothing itself."""

    def __init__(self, folder: Path, binaries: Path, plane: ControlPlane) -> None:
        self._folder = folder / "node"
        self._memory = folder / MEMORY
        self._binaries = binaries
        self._plane = plane
        self._cgroup = _cgroups.name_of(folder)
        self._folder.mkdir()
        self.containerd_socket = self._folder / "containerd.sock"
        _cgroups.make(self._cgroup)

    @property
    def environment(self) -> dict[str, str]:
        """For all parts: containerd looks for its shim, and that for runc, on PATH."""
        return {"PATH": f"{self._binaries}:{search_path()}", "HOME": str(self._folder), "TMPDIR": str(self._folder)}

    @property
    def ctr(self) -> list[str]:
        """The beginning of each command line for containerd."""
        return [str(self._binaries / "ctr"), f"--address={self.containerd_socket}", "--namespace=k8s.io"]

    def scheduler(self) -> list[str]:
        """The command line of kube-scheduler."""
        return [
            str(self._binaries / SCHEDULER),
            f"--kubeconfig={self._kubeconfig_for(SCHEDULER, 'system:kube-scheduler')}",
            "--leader-elect=false",
            "--secure-port=0",
        ]

    def containerd(self) -> list[str]:
        """The command line of containerd."""
        networks = self._folder / "networks"
        networks.mkdir()
        (networks / "10-pods.conflist").write_text(json.dumps(self._network()))
        file = self._folder / "containerd.toml"
        file.write_text(
            f"""version = 3
root = "{self._memory}/containerd"
state = "{self._memory}/containerd-state"
[grpc]
address = "{self.containerd_socket}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true  # else runc fails where this process may not lower it (no CAP_SYS_RESOURCE)
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{_PLUGINS}"]
conf_dir = "{networks}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"
"""
        )
        return [str(self._binaries / CONTAINERD), f"--config={file}"]

    def kubelet(self) -> list[str]:
        """The command line of kubelet."""
        file = self._folder / "kubelet.json"
        file.write_text(json.dumps(self._kubelet_configuration()))
        kubeconfig = self._kubeconfig_for(KUBELET, f"system:node:{NODE_NAME}", "system:nodes")
        return [
            str(self._binaries / KUBELET),
            f"--config={file}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_ADDRESS}",
            f"--root-dir={self._folder}/kubelet",
        ]

    def kube_proxy(self) -> list[str]:
        """The command line of kube-proxy."""
        return [
            str(self._binaries / KUBE_PROXY),
            f"--kubeconfig={self._kubeconfig_for(KUBE_PROXY, 'system:kube-proxy')}",
            "--proxy-mode=iptables",
            f"--hostname-override={NODE_NAME}",
            f"--cluster-cidr={POD_ADDRESSES}",
            # These are settings of the whole machine.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
        ]

    def images(self) -> list[str]:
        """The command line that lists the images there are; it succeeds once containerd serves."""
        return [*self.ctr, "images", "list", "--quiet"]

    def wait_until_ready(self, api: Any, *, check: Callable[[], None], deadline: float) -> None:
        """Wait until the node is ready and the API server's Service has been set up on it."""
        import kubernetes.client

        core: Any = kubernetes.client.CoreV1Api(api)
        while True:
            check()
            nodes = core.list_node().items
            conditions = [condition for node in nodes for condition in node.status.conditions or [] if condition.type == "Ready"]
            if any(condition.status == "True" for condition in conditions):
                return
            if time.monotonic() > deadline:
                said = conditions[0].message if conditions else "it has not registered"
                raise SandboxError(f"the node is not ready in time: {said}")
            time.sleep(_POLL)

    def _kubeconfig_for(self, part: str, user: str, group: str | None = None) -> Path:
        client = self._plane.authority.client(part, user=user, group=group)
        path = self._folder / f"{part}.kubeconfig"
        return _kubeconfig.with_certificate(path, url=self._plane.inner_url, ca=self._plane.ca_file, client=client)

    def _network(self) -> dict[str, Any]:
        bridge = {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_ADDRESSES}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(self._folder / "addresses"),
            },
        }
        return {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
        }

    def _kubelet_configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._plane.ca_file)},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{self.containerd_socket}",
            "podLogsDir": str(self._folder / "pod-logs"),
            "volumePluginDir": str(self._folder / "volume-plugins"),
            # The machine's disk and memory are shared with whatever else it does.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "enforceNodeAllocatable": [],
            "makeIPTablesUtilChains": False,
            "clusterDNS": ["10.96.0.10"],
            "clusterDomain": "cluster.local",
            "resolvConf": "",  # a pod that asks for the machine's name service would reach nobody
            "registryPullQPS": 0,
            "syncFrequency": "10s",
        }
