"""The real program over TLS on loopback: HTTP, signals, start-up errors."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.unit.webhook.conftest import PATIENCE, Certificate, Server, command, environment, serving
from tests.unit.webhook.pods import operations, pod, review
from tests.unit.webhook.test_review import MALFORMED
from webhook.__main__ import main
from webhook._app import LARGEST_BODY
from webhook._errors import SettingsError
from webhook._metrics import CERTIFICATE_END
from webhook._settings import CONFIG, OPTIONS, InjectionSettings, ServeSettings, read_injection_settings, read_settings


def test_a_pod_is_injected_over_tls(server: Server) -> None:
    response, body = server.request("POST", "/mutate?timeout=5s", json.dumps(review(pod())).encode())
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    answer = json.loads(body)["response"]
    assert answer["allowed"] is True
    added = [o["value"][0] for o in operations(answer) if o["path"] == "/spec/initContainers"]
    assert added[0]["image"] == "elector:test"


def test_a_connection_serves_many_reviews(server: Server) -> None:
    with closing(server.connect()) as connection:
        for _ in range(3):
            connection.request("POST", "/mutate", json.dumps(review(pod())), {"content-type": "application/json; charset=utf-8"})
            response = connection.getresponse()
            assert (response.status, response.will_close) == (200, False)
            response.read()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes(server: Server, path: str) -> None:
    response, body = server.request("GET", path)
    assert (response.status, body) == (200, b"ok\n")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/mutate", 405), ("POST", "/", 404), ("GET", "/docs", 404)])
def test_there_is_nothing_else(server: Server, method: str, path: str, status: int) -> None:
    response, _ = server.request(method, path)
    assert response.status == status


@pytest.mark.parametrize(("document", "reason"), MALFORMED)
def test_a_malformed_review_gets_a_reason(server: Server, document: Any, reason: str) -> None:
    response, body = server.request("POST", "/mutate", json.dumps(document).encode())
    assert response.status == 400
    assert reason in body.decode()
    assert body.count(b"\n") == 1


@pytest.mark.parametrize("sent", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_json_gets_a_reason(server: Server, sent: bytes) -> None:
    response, body = server.request("POST", "/mutate", sent)
    assert response.status == 400
    assert body.startswith(b"the body is not JSON: ")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/yaml", "application/json-patch+json"])
def test_another_content_type_gets_a_reason(server: Server, content_type: str) -> None:
    response, body = server.request("POST", "/mutate", b"{}", content_type)
    assert response.status == 415
    assert body.decode() == f'the content type is "{content_type}", allowed is application/json\n'


def test_a_pod_of_a_megabyte_is_injected(server: Server) -> None:
    large = pod()
    large["metadata"]["annotations"]["note"] = "x" * 1024 * 1024
    response, body = server.request("POST", "/mutate", json.dumps(review(large)).encode())
    assert response.status == 200
    assert json.loads(body)["response"]["patch"]


def test_a_body_that_is_too_large_gets_a_reason(server: Server) -> None:
    response, body = server.request("POST", "/mutate", b" " * (LARGEST_BODY + 1))
    assert response.status == 413
    assert body.decode() == f"the body is larger than {LARGEST_BODY} bytes\n"
    response, _ = server.request("POST", "/mutate", b" " * LARGEST_BODY)
    assert response.status == 400


def test_each_decision_is_one_line_of_log(certificate: Certificate, tmp_path: Path) -> None:
    with serving(certificate, tmp_path) as running:
        for sent in (pod(), pod(annotations={"ttl": "5\n"}), {"metadata": {"name": "plain"}}):
            running.request("POST", "/mutate", json.dumps(review(sent)).encode())
        running.request("POST", "/mutate", b"{")
        running.request("POST", "/mutate", json.dumps(review(pod(), dryRun=True)).encode())
    injected, denied, unchanged, refused, dry = running.log.read_text().splitlines()
    assert dry.endswith('reason="enabled" dryRun=true')
    assert injected.endswith('INFO result=injected namespace="shop" subject="ReplicaSet/web-5c689d88bb" reason="enabled"')
    assert 'INFO result=denied namespace="shop" subject="ReplicaSet/web-5c689d88bb" reason="annotation ' in denied
    assert unchanged.endswith('result=unchanged namespace="shop" subject="Pod/plain" reason="not enabled"')
    assert 'WARNING result=refused status=400 reason="the body is not JSON' in refused


def test_old_tls_is_refused(server: Server) -> None:
    context = ssl.create_default_context(cafile=str(server.certificate.cert))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with closing(server.connect(context)) as connection, pytest.raises(ssl.SSLError):
        connection.connect()


def test_a_review_on_its_way_when_the_end_comes_is_answered(certificate: Certificate, tmp_path: Path) -> None:
    """A connection that is in use ends with an answer that says so; the API server does not send a review a second time."""
    body = json.dumps(review(pod())).encode()
    with serving(certificate, tmp_path) as running, closing(running.connect()) as connection:
        last = ""
        for number in range(1000):
            if number == 20:
                running.process.send_signal(signal.SIGTERM)
            connection.request("POST", "/mutate", body, {"content-type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200
            assert json.loads(response.read())["response"]["patch"]
            last = response.getheader("connection", "")
            if last:
                break
        assert (last, number >= 20) == ("close", True)
        assert running.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_well(certificate: Certificate, tmp_path: Path, number: signal.Signals) -> None:
    with serving(certificate, tmp_path) as running, closing(running.connect()) as idle:
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        started = time.monotonic()
        running.process.send_signal(number)
        # An idle client closes when the server does, as the API server's does.
        assert idle.sock.recv(1) == b""
        idle.close()
        assert running.process.wait(PATIENCE) == 0
        assert time.monotonic() - started < 5
    assert running.log.read_text() == ""


def test_a_client_that_hangs_does_not_hold_up_the_end(certificate: Certificate, tmp_path: Path) -> None:
    with serving(certificate, tmp_path) as running, closing(running.connect()) as hanging:
        hanging.request("GET", "/healthz")
        hanging.getresponse().read()
        started = time.monotonic()
        running.process.terminate()
        assert running.process.wait(PATIENCE) == 0
        assert time.monotonic() - started < 10


def wait_until_closed(running: Server) -> None:
    while True:
        try:
            running.request("GET", "/healthz")
        except OSError:
            return


def test_a_review_under_way_is_still_answered(certificate: Certificate, tmp_path: Path) -> None:
    body = json.dumps(review(pod())).encode()
    with serving(certificate, tmp_path) as running, closing(running.connect()) as connection:
        connection.putrequest("POST", "/mutate")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body[:100])
        # The server has the beginning of the request once it answers another one.
        assert running.request("GET", "/healthz")[0].status == 200
        running.process.terminate()
        wait_until_closed(running)
        connection.send(body[100:])
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        connection.close()
        assert running.process.wait(PATIENCE) == 0


def test_a_variable_stands_for_a_flag_and_the_flag_wins(certificate: Certificate, tmp_path: Path) -> None:
    variables = {
        "LEADER_ELECTION_WEBHOOK_SIDECAR": "classic",
        "LEADER_ELECTION_WEBHOOK_IMAGE": "elector:variable",
        "LEADER_ELECTION_WEBHOOK_IMAGE_PULL_POLICY": "",
    }
    with serving(certificate, tmp_path, **variables) as running:
        _, body = running.request("POST", "/mutate", json.dumps(review(pod())).encode())
    (added,) = [o["value"] for o in operations(json.loads(body)["response"]) if o["path"] == "/spec/containers/-"]
    assert added["image"] == "elector:test"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment(**variables)
    )


def test_a_file_gives_what_neither_flag_nor_variable_does(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text('image: from-file\nsidecar: classic\nlisten: ":1"\nrun-as-user: 7\ncpu-limit:\n')
    flags = {"config": str(file), "tls_cert_file": "c", "tls_key_file": "k", "listen": ":2"}
    variables = {"LEADER_ELECTION_WEBHOOK_LISTEN": ":3", "LEADER_ELECTION_WEBHOOK_SIDECAR": "native"}
    injection, serve = read_settings(flags, variables)
    assert serve.port == 2
    assert injection == InjectionSettings("from-file", sidecar="native", run_as_user=7)
    named = {**variables, "LEADER_ELECTION_WEBHOOK_CONFIG": str(file)}
    assert read_settings({**flags, "config": None}, named) == (injection, serve)
    assert read_injection_settings({"config": str(file)}, {}) == InjectionSettings("from-file", sidecar="classic", run_as_user=7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the settings in {file}: No such file or directory"),
        ("a: [", "the settings in {file} are not YAML: while parsing"),
        ("[" * 10_000, "the settings in {file} are not YAML: "),
        ("- image", "the settings in {file} are no mapping of names to values"),
        ("imag: x", 'the settings in {file}: "imag" is unknown, did you mean image?'),
        ("tls_key_file: x", 'the settings in {file}: "tls_key_file" is unknown, did you mean tls-key-file?'),
        ("image: [x]\nsidecar: true", 'image is "[\'x\']", allowed is a text or a number; sidecar is "True", allowed is'),
        ("sidecar: both", 'sidecar in {file} is "both", allowed is native or classic'),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        read_settings({"config": str(file), "image": "e", "tls_cert_file": "c", "tls_key_file": "k"}, {})
    assert message.format(file=file) in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_admission_process_carries_no_client_of_the_api_server() -> None:
    script = "import sys, webhook._app, webhook._server, webhook._webhook_command; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_metrics_tell_what_was_decided(certificate: Certificate, tmp_path: Path) -> None:
    with serving(certificate, tmp_path) as running:
        for sent in (pod(), pod(), pod(annotations={"ttl": "5"})):
            running.request("POST", "/mutate", json.dumps(review(sent)).encode())
        running.request("POST", "/mutate", json.dumps(review(pod(), dryRun=True)).encode())
        running.request("POST", "/mutate", b"{")
        response, body = running.request("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = body.decode().splitlines()
    for line in (
        'leader_election_webhook_reviews_total{dry_run="false",reason="enabled",result="injected"} 2.0',
        'leader_election_webhook_reviews_total{dry_run="true",reason="enabled",result="injected"} 1.0',
        'leader_election_webhook_reviews_total{dry_run="false",reason="annotations",result="denied"} 1.0',
        'leader_election_webhook_reviews_total{dry_run="false",reason="malformed",result="refused"} 1.0',
        "leader_election_webhook_review_duration_seconds_count 5.0",
        'leader_election_webhook_certificate_reloads_total{result="failed"} 0.0',
    ):
        assert line in lines
    assert not [line for line in lines if "_created" in line]
    (end,) = [line.split()[1] for line in lines if line.startswith(CERTIFICATE_END)]
    ends = x509.load_pem_x509_certificate(certificate.cert.read_bytes()).not_valid_after_utc
    assert float(end) == ends.timestamp()


def test_a_taken_port_is_one_clear_line(certificate: Certificate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("webhook", "--listen", f"127.0.0.1:{port}", "--image", "elector:test", *certificate.flags())
    assert ended.returncode == 1
    assert ended.stderr == f"leader-election: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_a_missing_certificate_is_one_clear_line(certificate: Certificate, tmp_path: Path) -> None:
    missing = tmp_path / "tls.crt"
    ended = run("webhook", "--listen=127.0.0.1:0", "--image=e", *certificate.flags(), f"--tls-cert-file={missing}")
    assert ended.returncode == 1
    assert ended.stderr == f"leader-election: cannot read {missing}: No such file or directory\n"


def test_an_unusable_certificate_is_one_clear_line(certificate: Certificate, tmp_path: Path) -> None:
    broken = tmp_path / "tls.crt"
    broken.write_text("not a certificate")
    ended = run("webhook", "--listen=127.0.0.1:0", "--image=e", *certificate.flags(), f"--tls-cert-file={broken}")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"leader-election: cannot use the certificate {broken} with the key ")
    assert ended.stderr.count("\n") == 1


GOOD = ["webhook", "--image=e", "--tls-cert-file=c", "--tls-key-file=k"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["elect"], "elect"),
        ([*GOOD, "--listn=:1"], "--listn"),
        ([*GOOD, "--listen=8443"], '--listen is "8443", allowed is HOST:PORT, [IPv6]:PORT or :PORT'),
        ([*GOOD, "--listen=:65536"], '--listen is ":65536", allowed is'),
        ([*GOOD, "--listen=::1:1"], '--listen is "::1:1", allowed is'),
        ([*GOOD, "--sidecar=both"], '--sidecar is "both", allowed is native or classic'),
        ([*GOOD, "--image-pull-policy=Sometimes"], '"Sometimes", allowed is Always, IfNotPresent or Never'),
        ([*GOOD, "--image="], '--image is "", allowed is an image reference'),
        ([*GOOD, "--tls-key-file="], '--tls-key-file is "", allowed is the path of a file'),
        ([*GOOD, "--run-as-user=0"], '--run-as-user is "0", allowed is a number from 1 to 2147483647, or none'),
        ([*GOOD, "--cpu-limit=0"], '--cpu-limit is "0", allowed is a Kubernetes quantity above 0'),
        ([*GOOD, "--memory-request=1Gi"], '--memory-request is "1Gi", allowed is at most the limit of 64Mi'),
        (["webhook"], "--image (or LEADER_ELECTION_WEBHOOK_IMAGE) is missing"),
        (["webhook"], "--tls-cert-file (or LEADER_ELECTION_WEBHOOK_TLS_CERT_FILE) is missing"),
    ],
)
def test_a_wrong_flag_is_usage_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEADER_ELECTION_WEBHOOK_IMAGE", raising=False)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("usage: leader-election")
    assert message in errors


def test_a_wrong_variable_is_named() -> None:
    ended = run(*GOOD, LEADER_ELECTION_WEBHOOK_SIDECAR="both")
    assert ended.returncode == 2
    assert '--sidecar (LEADER_ELECTION_WEBHOOK_SIDECAR) is "both", allowed is native or classic' in ended.stderr


def test_help_names_every_flag_and_its_variable() -> None:
    ended = run("webhook", "--help")
    assert ended.returncode == 0
    for option in (CONFIG, *OPTIONS):
        assert f"{option.flag} {option.metavar}" in ended.stdout
        assert option.variable in ended.stdout


def test_every_setting_reaches_its_place() -> None:
    flags = {
        "listen": "[::1]:9443",
        "tls_cert_file": "c",
        "tls_key_file": "k",
        "image": "e",
        "image_pull_policy": "Never",
        "sidecar": "classic",
        "run_as_user": "none",
        "cpu_request": "1m",
        "cpu_limit": "2m",
        "memory_request": "3Mi",
        "memory_limit": "4Mi",
    }
    assert set(flags) == {option.key for option in OPTIONS}
    assert read_settings(flags, {}) == (
        InjectionSettings("e", "Never", "classic", None, "1m", "2m", "3Mi", "4Mi"),
        ServeSettings("::1", 9443, Path("c"), Path("k")),
    )


def test_the_defaults_of_the_settings_are_those_of_the_flags() -> None:
    injection, _ = read_settings({"tls_cert_file": "c", "tls_key_file": "k", "image": "e"}, {})
    assert injection == InjectionSettings("e")
