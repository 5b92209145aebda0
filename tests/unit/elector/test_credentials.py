"""Service account folders as the kubelet makes them, and kubeconfig files, good and bad."""

from __future__ import annotations

import base64
import json
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from elector._credentials import ClusterCredentials, from_kubeconfig, in_cluster
from elector._errors import CredentialsError
from tests.unit.elector.pki import Authority

AUTHORITY = Authority()
IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
SECRET = "secret-token-value"


class Mount:
    """A projected volume, laid out and rotated as the kubelet does it: files -> ..data -> a folder with a time in its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = 0

    def write(self, **files: bytes) -> None:
        self._number += 1
        folder = self.path / f"..2026_01_01_{self._number}"
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_bytes(content)
            link = self.path / name.replace("_", ".")
            if not link.is_symlink():
                link.symlink_to(Path("..data") / link.name)
        temporary = self.path / "..data_tmp"
        temporary.symlink_to(folder.name)
        temporary.rename(self.path / "..data")


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    made = Mount(tmp_path / "account")
    made.write(token=SECRET.encode() + b"\n", ca_crt=AUTHORITY.certificate, namespace=b"team-a\n")
    return made


def pod(mount: Mount, **environ: str) -> ClusterCredentials:
    return in_cluster(IN_POD | environ, str(mount.path))


def test_in_cluster_reads_the_mounted_folder(mount: Mount) -> None:
    credentials = pod(mount)
    assert (credentials.scheme, credentials.host, credentials.port) == ("https", "10.0.0.1", 443)
    assert credentials.token() == SECRET
    assert credentials.namespace == "team-a"
    assert credentials.authority == "10.0.0.1"
    assert SECRET not in repr(credentials)


def test_the_folder_can_be_named_by_a_variable(mount: Mount) -> None:
    assert in_cluster(IN_POD | {"ELECTOR_SERVICE_ACCOUNT_DIR": str(mount.path)}).token() == SECRET


@pytest.mark.parametrize("host", ["fd00::1", "[fd00::1]"])
def test_ipv6_hosts_get_brackets_in_the_host_header_only(mount: Mount, host: str) -> None:
    credentials = pod(mount, KUBERNETES_SERVICE_HOST=host, KUBERNETES_SERVICE_PORT="6443")
    assert credentials.host == "fd00::1"
    assert credentials.server_name == "fd00::1"
    assert credentials.authority == "[fd00::1]:6443"


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"KUBERNETES_SERVICE_HOST": ""}, "KUBERNETES_SERVICE_HOST"),
        ({"KUBERNETES_SERVICE_PORT": ""}, "KUBERNETES_SERVICE_PORT"),
        ({"KUBERNETES_SERVICE_PORT": "tcp://1:2"}, "KUBERNETES_SERVICE_PORT"),
        ({"KUBERNETES_SERVICE_PORT": "70000"}, "KUBERNETES_SERVICE_PORT"),
    ],
)
def test_a_missing_or_wrong_variable_is_named(mount: Mount, environ: dict[str, str], names: str) -> None:
    with pytest.raises(CredentialsError, match=names):
        pod(mount, **environ)


@pytest.mark.parametrize("name", ["token", "ca.crt"])
def test_a_missing_file_is_named(mount: Mount, name: str) -> None:
    (mount.path / "..data" / name).unlink()
    with pytest.raises(CredentialsError, match=f"{name}: No such file"):
        pod(mount)


def test_without_the_namespace_file_only_the_namespace_is_unknown(mount: Mount) -> None:
    (mount.path / "namespace").unlink()
    assert pod(mount).namespace is None


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "empty"), (b" \n", "empty"), (b"two words", "blanks"), (b"a\r\nX: y", "control"), (b"\xff", "ASCII")],
)
def test_a_token_that_would_break_the_header_is_refused_without_being_shown(mount: Mount, content: bytes, why: str) -> None:
    mount.write(token=content, ca_crt=AUTHORITY.certificate)
    with pytest.raises(CredentialsError, match=why) as caught:
        pod(mount)
    assert "words" not in str(caught.value)


def test_a_rotated_token_is_read_again(mount: Mount) -> None:
    credentials = pod(mount)
    for number in range(5):
        mount.write(token=b"token-%d" % number, ca_crt=AUTHORITY.certificate)
        assert credentials.token() == f"token-{number}"


def test_a_token_written_in_place_is_read_again(mount: Mount) -> None:
    credentials = pod(mount)
    target = mount.path / "..data" / "token"
    target.write_bytes(b"another")
    assert credentials.token() == "another"
    # The same size, another time: only the clock of the file system tells them apart.
    target.write_bytes(b"anotheR")
    os.utime(target, ns=(1, 1))
    assert credentials.token() == "anotheR"


def test_an_unreadable_moment_keeps_the_last_token(mount: Mount) -> None:
    credentials = pod(mount)
    (mount.path / "..data").rename(mount.path / "away")
    assert credentials.token() == SECRET
    mount.write(token=b"", ca_crt=b"")
    assert credentials.token() == SECRET
    assert credentials.tls() is not None
    mount.write(token=b"next", ca_crt=AUTHORITY.certificate)
    assert credentials.token() == "next"


def test_an_unchanged_token_is_not_read_again(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = pod(mount)
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("read again"))
    assert credentials.token() == SECRET


def test_the_context_verifies_and_trusts_only_the_clusters_ca(mount: Mount) -> None:
    context = pod(mount).tls()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1


def test_a_changed_ca_makes_a_new_context_and_an_unchanged_one_does_not(mount: Mount) -> None:
    credentials = pod(mount)
    first = credentials.tls()
    mount.write(token=b"rotated", ca_crt=AUTHORITY.certificate)
    assert credentials.tls() is first
    mount.write(token=b"rotated", ca_crt=AUTHORITY.certificate + Authority("second").certificate)
    second = credentials.tls()
    assert second is not None
    assert second is not first
    assert len(second.get_ca_certs()) == 2
    mount.write(token=b"rotated", ca_crt=b"-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
    assert credentials.tls() is second


def test_a_ca_that_is_none_is_refused(mount: Mount) -> None:
    mount.write(token=b"t", ca_crt=b"hello")
    with pytest.raises(CredentialsError, match=r"ca\.crt: is not in PEM"):
        pod(mount)
    mount.write(token=b"t", ca_crt=b"-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
    with pytest.raises(CredentialsError, match="CA holds no usable certificate"):
        pod(mount)


def test_a_path_that_is_a_device_or_a_folder_is_an_error_not_a_hang(mount: Mount) -> None:
    token = mount.path / "token"
    token.unlink()
    os.mkfifo(token)
    with pytest.raises(CredentialsError, match="token"):
        pod(mount)
    token.unlink()
    token.symlink_to("/dev/zero")
    with pytest.raises(CredentialsError, match="larger"):
        pod(mount)
    token.unlink()
    token.mkdir()
    with pytest.raises(CredentialsError, match="directory"):
        pod(mount)


# --- kubeconfig


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


CLIENT = AUTHORITY.sign("client")
CLUSTER = {"server": "https://api.example:6443", "certificate-authority-data": b64(AUTHORITY.certificate)}


def write(folder: Path, cluster: Any = None, user: Any = None, **top: Any) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team-b"}}],
        "clusters": [{"name": "c", "cluster": CLUSTER if cluster is None else cluster}],
        "users": [{"name": "u", "user": {"token": SECRET} if user is None else user}],
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(config | top))
    return str(path)


def test_kubeconfig_with_a_token(tmp_path: Path) -> None:
    credentials = from_kubeconfig(write(tmp_path))
    assert credentials.url == "https://api.example:6443"
    assert credentials.authority == "api.example:6443"
    assert credentials.server_name == "api.example"
    assert credentials.token() == SECRET
    assert credentials.namespace == "team-b"


def test_kubeconfig_may_be_json_and_have_a_path_and_a_server_name(tmp_path: Path) -> None:
    path = write(tmp_path, CLUSTER | {"server": "https://api.example/k8s/c-1/", "tls-server-name": "inner"})
    Path(path).write_text(json.dumps(yaml.safe_load(Path(path).read_text())))
    credentials = from_kubeconfig(path)
    assert credentials.url == "https://api.example/k8s/c-1"
    assert credentials.server_name == "inner"


def test_relative_paths_are_relative_to_the_file_and_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ca.pem").write_bytes(AUTHORITY.certificate)
    (tmp_path / "sub" / "token").write_text("first\n")
    monkeypatch.chdir("/")
    cluster = {"server": "https://[::1]:6443", "certificate-authority": "sub/ca.pem"}
    credentials = from_kubeconfig(write(tmp_path, cluster, {"tokenFile": "sub/token", "token": "loses"}))
    assert credentials.host == "::1"
    assert credentials.token() == "first"
    (tmp_path / "sub" / "token").write_text("second-one\n")
    assert credentials.token() == "second-one"


def test_client_certificates_from_data_and_from_files(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_bytes(CLIENT.certificate)
    (tmp_path / "k.pem").write_bytes(CLIENT.key)
    for user in (
        {"client-certificate": "c.pem", "client-key": "k.pem"},
        {"client-certificate-data": b64(CLIENT.certificate), "client-key-data": b64(CLIENT.key)},
        {"client-certificate": "c.pem", "client-key-data": b64(CLIENT.key)},
    ):
        credentials = from_kubeconfig(write(tmp_path, user=user))
        assert credentials.token() is None
        assert credentials.tls() is not None


def test_without_memory_files_the_key_is_on_disk_for_a_moment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    user = {"client-certificate-data": b64(CLIENT.certificate), "client-key-data": b64(CLIENT.key)}
    assert from_kubeconfig(write(tmp_path, user=user)).tls() is not None
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_local_proxy_needs_no_identity(tmp_path: Path) -> None:
    credentials = from_kubeconfig(write(tmp_path, {"server": "http://127.0.0.1:8001"}, {}))
    assert credentials.tls() is None
    assert credentials.token() is None
    assert credentials.authority == "127.0.0.1:8001"


OTHER_KEY = b64(AUTHORITY.sign("other").key)


@pytest.mark.parametrize(
    ("cluster", "user", "why"),
    [
        ({"insecure-skip-tls-verify": True}, {}, "insecure-skip-tls-verify of cluster 'c' is refused.*always verified"),
        ({"proxy-url": "http://p"}, {}, "proxy-url of cluster 'c' is not supported"),
        ({"server": ""}, {}, "server of cluster 'c' is not set"),
        ({"server": "http://10.0.0.1"}, {}, "plain http is allowed to localhost"),
        ({"server": "api.example:6443"}, {}, "https://"),
        ({"server": "https://:6443"}, {}, "https://HOST:PORT"),
        ({"server": "https://a:b"}, {}, "https://HOST:PORT"),
        ({"server": "https://a/x?y"}, {}, "https://HOST:PORT"),
        ({"server": "https://u:secret-token-value@a"}, {}, "has a user in its address"),
        ({"server": 5}, {}, "server of cluster 'c' is not a string"),
        ({"certificate-authority-data": "%%%"}, {}, "certificate-authority-data of cluster 'c' is not base64"),
        ({"certificate-authority-data": None, "certificate-authority": "no.pem"}, {}, r"no\.pem: No such file"),
        ({}, {"token": None}, "user 'u' says nothing.*supported are token, tokenFile"),
        ({}, {"token": 12345}, "token of user 'u' is not a string"),
        ({}, {"token": f"{SECRET} x"}, "token of user 'u' holds no token"),
        ({}, {"tokenFile": "missing"}, "tokenFile of user 'u'.*missing: No such file"),
        ({}, {"exec": {"command": "aws"}}, "exec of user 'u' is not supported.*supported are token"),
        ({}, {"auth-provider": {"name": "gcp"}}, "auth-provider of user 'u' is not supported"),
        ({}, {"as": "root"}, "impersonation is not supported"),
        ({}, {"as-groups": ["g"]}, "impersonation is not supported"),
        ({}, {"password": SECRET}, "no longer take passwords"),
        ({}, {"client-certificate-data": b64(CLIENT.certificate)}, "lacks client-key"),
        ({}, {"client-key-data": b64(CLIENT.key)}, "lacks client-certificate"),
        (
            {},
            {"client-certificate-data": b64(CLIENT.certificate), "client-key-data": OTHER_KEY},
            "do not load: key values mismatch",
        ),
    ],
)
def test_what_is_wrong_or_unsupported_is_named(tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], why: str) -> None:
    path = write(tmp_path, CLUSTER | cluster, {"token": SECRET} | user)
    with pytest.raises(CredentialsError, match=why) as caught:
        from_kubeconfig(path)
    assert str(caught.value).startswith(f"kubeconfig {path}: ")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("top", "why"),
    [
        ({"current-context": ""}, "current-context is not set"),
        ({"current-context": "gone"}, "no context 'gone' under contexts"),
        ({"clusters": []}, "no cluster 'c' under clusters"),
        ({"users": None}, "no user 'u' under users"),
        ({"contexts": [{"name": "here", "context": {"user": "u"}}]}, "names no cluster"),
        ({"contexts": [{"name": "here", "context": ["x"]}]}, "context 'here' is not a mapping"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, top: dict[str, Any], why: str) -> None:
    with pytest.raises(CredentialsError, match=why):
        from_kubeconfig(write(tmp_path, **top))


@pytest.mark.parametrize("content", ["a: [", "- 1", "", f"users: [{{token: {SECRET}, x: }}}}"])
def test_a_file_that_is_no_kubeconfig(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(CredentialsError, match="kubeconfig") as caught:
        from_kubeconfig(str(path))
    assert SECRET not in str(caught.value)


def test_a_missing_file_or_a_list_of_files(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="No such file"):
        from_kubeconfig(str(tmp_path / "none"))
    with pytest.raises(CredentialsError, match="one file, not a list"):
        from_kubeconfig("/a:/b")


def test_an_encrypted_key_is_refused_instead_of_asked_for(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(CLIENT.key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"pass"),
    )
    user = {"client-certificate-data": b64(CLIENT.certificate), "client-key-data": b64(key)}
    with pytest.raises(CredentialsError, match="encrypted"):
        from_kubeconfig(write(tmp_path, user=user))
