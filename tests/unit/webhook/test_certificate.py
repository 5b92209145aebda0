"""A certificate that changes under the server."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.webhook.conftest import PATIENCE, Server, make_certificate, serving
from tests.unit.webhook.conftest import Certificate as Files
from webhook._certificate import Certificate, watch

DAY = 86_400


class Volume:
    """A Secret's volume as the kubelet makes it: the files are links through `..data`, which is moved."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self.files = Files(folder / "tls.crt", folder / "tls.key")
        self.publish()
        for file in (self.files.cert, self.files.key):
            file.symlink_to(Path("..data") / file.name)

    def publish(self, days: float = 1, *, broken: bool = False) -> None:
        self._count += 1
        data = self._folder / f"..{self._count}"
        data.mkdir()
        made = make_certificate(data, days)
        if broken:
            made.key.write_text("broken")
        moving = self._folder / "..data_tmp"
        moving.symlink_to(data.name)
        moving.replace(self._folder / "..data")


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def served(certificate: Certificate) -> bytes:
    """The certificate that a client is shown, by a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    client = trusting.wrap_bio(to_client, to_server)
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def on_disk(files: Files) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files.cert.read_text())


def test_a_moved_link_brings_the_new_certificate(volume: Volume) -> None:
    certificate = Certificate(volume.files.cert, volume.files.key)
    reports: list[bool] = []
    certificate.on_reload(reports.append)
    first = served(certificate)
    assert first == on_disk(volume.files)
    certificate.refresh()
    assert reports == []
    volume.publish(days=3)
    certificate.refresh()
    assert served(certificate) == on_disk(volume.files) != first
    assert certificate.ends == pytest.approx(time.time() + 3 * DAY, abs=60)
    certificate.refresh()
    assert reports == [True]


def test_files_written_in_place_are_taken_up(tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    certificate = Certificate(files.cert, files.key)
    make_certificate(tmp_path)
    certificate.refresh()
    assert served(certificate) == on_disk(files)


def test_a_broken_one_is_reported_once_and_the_old_one_kept(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    certificate = Certificate(volume.files.cert, volume.files.key)
    reports: list[bool] = []
    certificate.on_reload(reports.append)
    first, ends = served(certificate), certificate.ends
    volume.publish(broken=True)
    with caplog.at_level(logging.INFO):
        certificate.refresh()
        certificate.refresh()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("certificate not taken up, the old one stays until 20")
    assert f"cannot use the certificate {volume.files.cert} with the key {volume.files.key}: " in record.getMessage()
    assert (served(certificate), certificate.ends, reports) == (first, ends, [False])
    volume.publish()
    certificate.refresh()
    assert (served(certificate), reports) == (on_disk(volume.files), [False, True])


def test_missing_files_are_reported_and_the_old_certificate_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = make_certificate(tmp_path)
    certificate = Certificate(files.cert, files.key)
    first = served(certificate)
    files.key.unlink()
    certificate.refresh()
    assert f"cannot read {files.key}: No such file or directory" in caplog.text
    assert served(certificate) == first


def test_one_that_has_ended_is_not_taken_up_before_the_old_one_has(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    clock = [time.time()]
    certificate = Certificate(volume.files.cert, volume.files.key, now=lambda: clock[0])
    first = served(certificate)
    volume.publish(days=-1)
    certificate.refresh()
    assert served(certificate) == first
    assert f"the certificate {volume.files.cert} ended at 20" in caplog.text
    clock[0] += 2 * DAY  # both have ended now: the newer one is as good
    volume.publish(days=-0.5)
    certificate.refresh()
    assert served(certificate) == on_disk(volume.files)


def test_it_is_looked_after_every_few_seconds(volume: Volume) -> None:
    certificate = Certificate(volume.files.cert, volume.files.key)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            volume.publish()
        elif len(slept) == 3:
            assert served(certificate) == on_disk(volume.files)
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch(certificate, sleep))
    assert all(1 <= seconds <= 10 for seconds in slept)


def shown_to_a_new_client(server: Server) -> bytes:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    with closing(server.connect(trusting)) as connection:
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        return connection.sock.getpeercert(binary_form=True) or b""


def test_the_running_program_takes_it_up(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("webhook")
    before = folder / "before.crt"
    shutil.copy(volume.files.cert, before)
    with serving(volume.files, folder) as running:
        old = ssl.create_default_context(cafile=str(before))
        with closing(running.connect(old)) as connection:
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b"ok\n"
            volume.publish()
            deadline = time.monotonic() + PATIENCE
            while shown_to_a_new_client(running) != on_disk(volume.files):
                assert time.monotonic() < deadline, running.log.read_text()
                time.sleep(0.05)
            # A connection that was open stays as it was.
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b"ok\n"
        _, body = running.request("GET", "/metrics")
    assert b'certificate_reloads_total{result="taken"} 1.0' in body
    assert running.log.read_text().count("certificate taken up, it ends at 20") == 1
