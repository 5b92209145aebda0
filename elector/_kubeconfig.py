"""Reads a kubeconfig file: what of it is supported becomes `ClusterCredentials`, the rest is refused by name.

Apart from `_credentials` because it needs YAML and a URL parser, which no elector in a pod has to load.
"""

from __future__ import annotations

import binascii
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from elector._credentials import ClusterCredentials, _check_pem, _check_token, _File, _Source
from elector._errors import CredentialsError

__all__ = ["read"]

_SUPPORTED = "supported are token, tokenFile, and client-certificate with client-key (or their -data forms)"
_IMPERSONATION = ("as", "as-groups", "as-uid", "as-user-extra")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def read(path: str) -> ClusterCredentials:
    """The current context of the file. Raises `CredentialsError` naming file, field and what is needed."""
    return _Reader(path).credentials()


class _Reader:
    """One file being read; it knows the file's name for errors and its folder for relative paths."""

    def __init__(self, path: str) -> None:
        self.path = path

    def error(self, what: str) -> CredentialsError:
        return CredentialsError(f"kubeconfig {self.path}: {what}")

    def credentials(self) -> ClusterCredentials:
        config = self.load()
        current = self.text(config, "current-context", "the file")
        if not current:
            raise self.error("current-context is not set; `kubectl config use-context NAME` sets it")
        context = self.entry(config, "context", current)
        cluster_name = self.text(context, "cluster", f"context {current!r}")
        user_name = self.text(context, "user", f"context {current!r}")
        if not cluster_name:
            raise self.error(f"context {current!r} names no cluster")
        cluster = self.entry(config, "cluster", cluster_name)
        user = self.entry(config, "user", user_name) if user_name else {}
        return self.combine(
            cluster,
            f"cluster {cluster_name!r}",
            user,
            f"user {user_name!r}",
            self.text(context, "namespace", f"context {current!r}") or None,
        )

    def load(self) -> dict[str, Any]:
        try:
            content = Path(self.path).read_bytes()
        except OSError as error:
            hint = " (one file, not a list of several, is supported)" if ":" in self.path else ""
            raise CredentialsError(f"kubeconfig: cannot read {self.path}: {error.strerror or error}{hint}") from None
        try:
            config = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            # Not the error's text: it quotes the lines around, where a token may stand.
            mark = getattr(error, "problem_mark", None)
            where = f" (line {mark.line + 1})" if mark is not None else ""
            raise self.error(f"is not valid YAML{where}") from None
        if not isinstance(config, dict):
            raise self.error("is not a kubeconfig: a mapping with clusters, users and contexts is needed")
        return config

    def entry(self, config: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
        """The mapping called `name` in the list of clusters, users or contexts."""
        entries = config.get(f"{kind}s")
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and entry.get("name") == name:
                value = entry.get(kind) or {}
                if not isinstance(value, dict):
                    raise self.error(f"{kind} {name!r} is not a mapping")
                return value
        raise self.error(f"there is no {kind} {name!r} under {kind}s")

    def text(self, mapping: dict[str, Any], field: str, where: str) -> str:
        value = mapping.get(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(f"{field} of {where} is not a string; quote it")
        return value.strip()

    def combine(
        self, cluster: dict[str, Any], cluster_is: str, user: dict[str, Any], user_is: str, namespace: str | None
    ) -> ClusterCredentials:
        if cluster.get("insecure-skip-tls-verify"):
            raise self.error(
                f"insecure-skip-tls-verify of {cluster_is} is refused: whoever could stand in for the API server could "
                "make two leaders, so its certificate is always verified; give certificate-authority instead"
            )
        if cluster.get("proxy-url"):
            raise self.error(f"proxy-url of {cluster_is} is not supported: the API server is reached directly")
        scheme, host, port, prefix = self.server(self.text(cluster, "server", cluster_is), cluster_is)
        token, client = self.identity(user, user_is)
        if scheme == "https" and token is None and client is None:
            raise self.error(f"{user_is} says nothing to identify us by; {_SUPPORTED}")
        try:
            return ClusterCredentials(
                scheme=scheme,
                host=host,
                port=port,
                prefix=prefix,
                server_name=self.text(cluster, "tls-server-name", cluster_is) or None,
                namespace=namespace,
                token=token,
                ca=self.source(cluster, "certificate-authority", cluster_is),
                client=client,
            )
        except CredentialsError as error:
            raise self.error(str(error)) from None

    def server(self, url: str, where: str) -> tuple[str, str, int, str]:
        if not url:
            raise self.error(f"server of {where} is not set; an https:// address is needed")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise self.error(f"server of {where} is not an address; https://HOST:PORT is needed") from None
        if "@" in parts.netloc:
            raise self.error(f"server of {where} has a user in its address; put it under users ({_SUPPORTED})")
        host = parts.hostname or ""
        # Ends in a header and in a request line: nothing that could break out of them.
        if not host or not url.isascii() or not url.isprintable() or " " in url or parts.query or parts.fragment:
            raise self.error(f"server of {where} is {url!r}; https://HOST:PORT is needed")
        if parts.scheme not in ("https", "http"):
            raise self.error(f"server of {where} is {url!r}; it must begin with https://")
        if parts.scheme == "http" and host not in _LOOPBACK:
            raise self.error(
                f"server of {where} is {url!r}: plain http is allowed to {', '.join(_LOOPBACK)} only, as for "
                "`kubectl proxy`; everywhere else it must be https"
            )
        return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/")

    def identity(self, user: dict[str, Any], where: str) -> tuple[_Source | None, tuple[_Source, _Source] | None]:
        for field in ("exec", "auth-provider"):
            if user.get(field):
                raise self.error(f"{field} of {where} is not supported, no program is run for a token; {_SUPPORTED}")
        for field in _IMPERSONATION:
            if user.get(field):
                raise self.error(f"{field} of {where}: impersonation is not supported; {_SUPPORTED}")
        for field in ("username", "password"):
            if user.get(field):
                raise self.error(f"{field} of {where}: API servers no longer take passwords; {_SUPPORTED}")
        token: _Source | None = None
        if file := self.text(user, "tokenFile", where):
            # As client-go has it, the file goes before the field.
            token = _File(self.relative(file), f"tokenFile of {where}", _check_token)
        elif text := self.text(user, "token", where):
            token = text.encode("utf-8", "replace")
            try:
                _check_token(token)
            except CredentialsError as error:
                raise self.error(f"token of {where} {error}") from None
        certificate = self.source(user, "client-certificate", where)
        key = self.source(user, "client-key", where)
        if (certificate is None) is not (key is None):
            missing = "client-key" if key is None else "client-certificate"
            raise self.error(f"{where} lacks {missing} (or {missing}-data): certificate and key are needed together")
        return token, None if certificate is None or key is None else (certificate, key)

    def source(self, mapping: dict[str, Any], field: str, where: str) -> _Source | None:
        """The PEM content of `field`-data, which goes first, or the file that `field` names."""
        if data := self.text(mapping, f"{field}-data", where):
            try:
                content = binascii.a2b_base64("".join(data.split()), strict_mode=True)
                _check_pem(content)
            except (ValueError, CredentialsError):
                raise self.error(f"{field}-data of {where} is not base64 of a PEM file") from None
            return content
        if file := self.text(mapping, field, where):
            return _File(self.relative(file), f"{field} of {where}", _check_pem)
        return None

    def relative(self, path: str) -> str:
        return str(Path(self.path).parent / path)
