"""Where the API server is, whom to trust there, and who we are: from the pod's service account or from a kubeconfig.

The files of a service account are projected by the kubelet, which rotates them by swapping a symbolic link, so they are
looked at again (a `stat`, no more) before every use. Certificates are always verified. No error and no `repr` carries a
token or a key.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping

from elector._errors import CredentialsError

__all__ = ["DEFAULT_DIRECTORY", "DIRECTORY_VARIABLE", "ClusterCredentials", "from_kubeconfig", "in_cluster"]

DEFAULT_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"
DIRECTORY_VARIABLE = "ELECTOR_SERVICE_ACCOUNT_DIR"
"""Names another folder for token, ca.crt and namespace: for whoever plays the kubelet on a machine without one."""

_MOST_BYTES = 1 << 20  # no token, certificate or kubeconfig of any sane cluster comes near; a wrong path (a device) may


class _File:
    """A small file whose content follows its rotation; a moment in which it is unreadable keeps what was read last."""

    def __init__(self, path: str, what: str, check: Callable[[bytes], None]) -> None:
        """`what` names the file's role in errors; `check` raises `CredentialsError` for content of no use."""
        self.path = path
        self._what = what
        self._check = check
        self._key: tuple[int, ...] | None = None
        self._content: bytes | None = None

    def read(self) -> bytes:
        """The present content. Raises `CredentialsError` only while nothing usable was ever read."""
        try:
            # The stat goes through every symbolic link: the kubelet swaps the link of the folder, not the file.
            if self._content is None or _key(os.stat(self.path)) != self._key:  # noqa: PTH116 - pathlib costs 0.6 MB
                key, content = _read(self.path)
                self._check(content)
                self._key, self._content = key, content
        except OSError as error:
            if self._content is None:
                raise CredentialsError(f"{self._what}: cannot read {self.path}: {error.strerror or error}") from None
        except CredentialsError as error:
            if self._content is None:
                raise CredentialsError(f"{self._what}: {self.path}: {error}") from None
        return self._content


def _key(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size, stat.st_dev)


def _read(path: str) -> tuple[tuple[int, ...], bytes]:
    """Content and the key of exactly that content (`fstat` of what is read, so that a swap in between is noticed)."""
    # O_NONBLOCK: a path that names a pipe must not stop the event loop for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        key = _key(os.fstat(descriptor))
        parts, size = [], 0
        while part := os.read(descriptor, 65536):
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                raise CredentialsError(f"is larger than {_MOST_BYTES} bytes")
    finally:
        os.close(descriptor)
    return key, b"".join(parts)


def _check_token(content: bytes) -> None:
    """RFC 6750, section 2.1: a token is printable ASCII without blanks; anything else would break the header."""
    token = content.strip()
    if not token:
        raise CredentialsError("holds no token, it is empty")
    if any(not 0x21 <= byte <= 0x7E for byte in token):
        raise CredentialsError("holds no token: blanks, control characters or non-ASCII in it")


def _check_pem(content: bytes) -> None:
    if b"-----BEGIN " not in content:
        raise CredentialsError("is not in PEM format (no -----BEGIN line)")


_Source = bytes | _File


def _content(source: _Source) -> bytes:
    return source if isinstance(source, bytes) else source.read()


class ClusterCredentials:
    """One API server and one identity there. Made by `in_cluster` or `from_kubeconfig`.

    `scheme`, `host` (no brackets), `port` and `prefix` (path before every request's, mostly empty) say where;
    `server_name` is the name that the server's certificate must carry; `namespace` is the pod's or context's, if known.
    """

    __slots__ = (
        "_ca",
        "_client",
        "_context",
        "_made_of",
        "_token",
        "host",
        "namespace",
        "port",
        "prefix",
        "scheme",
        "server_name",
    )

    def __init__(
        self,
        *,
        scheme: str,
        host: str,
        port: int,
        prefix: str = "",
        server_name: str | None = None,
        namespace: str | None = None,
        token: _Source | None = None,
        ca: _Source | None = None,
        client: tuple[_Source, _Source] | None = None,
    ) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.prefix = prefix
        self.server_name = server_name or host
        self.namespace = namespace
        self._token = token
        self._ca = ca
        self._client = client
        self._context: ssl.SSLContext | None = None
        self._made_of: tuple[bytes, ...] | None = None
        # What is wrong now is said now, not at the first request.
        self.token()
        self.tls()

    def __repr__(self) -> str:
        return f"ClusterCredentials({self.url!r})"

    @property
    def authority(self) -> str:
        """Host and port as in a `Host` header (RFC 9112, section 3.2): brackets for IPv6, no default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The API server's address, for messages."""
        return f"{self.scheme}://{self.authority}{self.prefix}"

    def token(self) -> str | None:
        """The bearer token as it is now, or None where a certificate (or a local proxy) identifies us.

        Raises `CredentialsError` when there should be one and none was ever readable.
        """
        return None if self._token is None else _content(self._token).strip().decode("ascii")

    def tls(self) -> ssl.SSLContext | None:
        """The context for a new connection, rebuilt when CA or client certificate changed; None for plain HTTP.

        Raises `CredentialsError` when it cannot be made and never could.
        """
        if self.scheme != "https":
            return None
        sources = [] if self._ca is None else [self._ca]
        sources += self._client or ()
        made_of = tuple(_content(source) for source in sources)
        if self._context is None or made_of != self._made_of:
            try:
                self._context = _make_context(None if self._ca is None else made_of[0], made_of[-2:] if self._client else None)
            except CredentialsError:
                # Half a rotation (a new certificate beside the old key): the next connection tries again.
                if self._context is None:
                    raise
            else:
                self._made_of = made_of
        return self._context


def _make_context(ca: bytes | None, client: tuple[bytes, ...] | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As Go does: a CA file may hold an intermediate authority alone.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["http/1.1"])
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            raise CredentialsError(f"the cluster's CA holds no usable certificate: {_reason(error)}") from None
    if client is not None:
        _load_client(context, b"\n".join(client))
    return context


def _load_client(context: ssl.SSLContext, pem: bytes) -> None:
    """Give certificate and key to OpenSSL, which takes files only: one in memory, or one that is gone at once."""
    descriptor, path = _private_file()
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        context.load_cert_chain(path, password=_refuse_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CredentialsError(f"client certificate and key do not load: {_reason(error)}") from None
    finally:
        os.close(descriptor)
        if not path.startswith("/proc/"):
            os.unlink(path)  # noqa: PTH108


def _private_file() -> tuple[int, str]:
    """An empty file that only this user can read, in memory where the system can do that, and its path."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{descriptor}"
        if os.access(path, os.R_OK):
            return descriptor, path
        os.close(descriptor)
    import tempfile  # heavy, and only needed where there is no memfd

    return tempfile.mkstemp()


def _refuse_password() -> str:
    # Without this OpenSSL asks for the password on the terminal and waits.
    raise CredentialsError("the client key is encrypted; give it without a password")


def _reason(error: Exception) -> str:
    """OpenSSL's own words, without the address in its sources."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not in PEM format").replace("_", " ").lower()
    return str(error)


def in_cluster(environ: Mapping[str, str], directory: str | None = None) -> ClusterCredentials:
    """The service account of the pod we run in.

    `directory` holds token, ca.crt and namespace; None: `ELECTOR_SERVICE_ACCOUNT_DIR`, else where the kubelet puts it.
    Raises `CredentialsError` naming the variable or file that is missing and what provides it.
    """
    host = environ.get("KUBERNETES_SERVICE_HOST", "").strip().strip("[]")
    port = environ.get("KUBERNETES_SERVICE_PORT", "").strip()
    if not host or not port:
        missing = "KUBERNETES_SERVICE_PORT" if host else "KUBERNETES_SERVICE_HOST"
        raise CredentialsError(f"{missing} is not set: not in a pod? Outside of one, name a kubeconfig (--kubeconfig)")
    directory = directory or environ.get(DIRECTORY_VARIABLE) or DEFAULT_DIRECTORY
    token = _File(f"{directory}/token", "the service account's token", _check_token)
    ca = _File(f"{directory}/ca.crt", "the cluster's CA", _check_pem)
    try:
        namespace: str | None = _read(f"{directory}/namespace")[1].decode("utf-8", "replace").strip() or None
    except (OSError, CredentialsError):
        namespace = None  # only a default for others; nothing here depends on it
    return ClusterCredentials(
        scheme="https",
        host=host,
        port=_port(port, "KUBERNETES_SERVICE_PORT"),
        namespace=namespace,
        token=token,
        ca=ca,
    )


def _port(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise CredentialsError(f"{name} is {text!r}: a port is a number from 1 to 65535")
    return int(text)


def from_kubeconfig(path: str) -> ClusterCredentials:
    """The current context of a kubeconfig file; paths in it are relative to the file.

    Raises `CredentialsError` naming file, field and what is needed: for what is missing, and for what is not supported
    (plugins, impersonation, proxies, unverified TLS), which is refused rather than left out in silence.
    """
    from elector._kubeconfig import read  # with YAML and URLs in its train: never loaded in a pod

    return read(path)
