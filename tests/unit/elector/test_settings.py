"""The settings: one declaration each, two ways to give it, and words for whoever gets it wrong."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from elector._election import Sidecar
from elector._errors import SettingsError
from elector._settings import Settings, describe, parse_settings

NEEDED = ["--election", "example"]


def settings(*arguments: str, environ: dict[str, str] | None = None) -> Settings:
    return parse_settings(arguments, environ or {}, "1.2.3")


def test_the_originals_defaults() -> None:
    found = settings(*NEEDED)
    assert found.election == "example"
    assert found.identity == socket.gethostname()
    assert found.namespace == "default"
    assert (found.timing.ttl, found.timing.renew_deadline, found.timing.retry_period) == (10.0, 5.0, 2.5)
    assert found.http == ()
    assert found.use_cluster_credentials is False


def test_the_other_defaults() -> None:
    found = settings(*NEEDED)
    assert found.status_http == ()
    assert found.kubeconfig == ""
    assert found.sidecar is Sidecar.UNSET
    assert found.drain == 28.0
    assert (found.log_level, found.log_format) == ("info", "text")


def test_without_an_instance_each_process_is_its_own() -> None:
    # The same default in two processes would make each take the other for its own predecessor: two leaders.
    assert settings(*NEEDED).instance != settings(*NEEDED).instance


GOOD: list[tuple[str, str, str, Any]] = [
    ("--election", "a.b-c", "election", "a.b-c"),
    ("--id", "pod-a", "identity", "pod-a"),
    ("--election-namespace", "team", "namespace", "team"),
    ("--http", "0.0.0.0:4040", "http", (("0.0.0.0", 4040),)),
    ("--use-cluster-credentials", "true", "use_cluster_credentials", True),
    ("--kubeconfig", "/k", "kubeconfig", "/k"),
    ("--status-http", ":4041", "status_http", (("", 4041),)),
    ("--sidecar", "native", "sidecar", Sidecar.NATIVE),
    ("--drain", "1m", "drain", 60.0),
    ("--instance", "uid/leader-elector", "instance", "uid/leader-elector"),
    ("--log-level", "debug", "log_level", "debug"),
    ("--log-format", "json", "log_format", "json"),
]


@pytest.mark.parametrize(("flag", "text", "name", "value"), GOOD)
def test_every_setting_as_a_flag_and_as_a_variable(flag: str, text: str, name: str, value: Any) -> None:
    variable = "ELECTOR_" + flag[2:].upper().replace("-", "_")
    needed = [] if flag == "--election" else NEEDED
    assert getattr(settings(*needed, flag, text), name) == value
    assert getattr(settings(*needed, f"{flag}={text}"), name) == value
    assert getattr(settings(*needed, environ={variable: text}), name) == value


@pytest.mark.parametrize(
    ("flag", "text", "name", "value"),
    [
        ("--ttl", "12s", "ttl", 12.0),
        ("--renew-deadline", "6s", "renew_deadline", 6.0),
        ("--retry-period", "1500ms", "retry_period", 1.5),
    ],
)
def test_every_time_as_a_flag_and_as_a_variable(flag: str, text: str, name: str, value: float) -> None:
    variable = "ELECTOR_" + flag[2:].upper().replace("-", "_")
    assert getattr(settings(*NEEDED, flag, text).timing, name) == value
    assert getattr(settings(*NEEDED, environ={variable: text}).timing, name) == value


def test_help_names_every_setting_with_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        settings("--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    flags = [flag for flag, *_ in GOOD] + ["--ttl", "--renew-deadline", "--retry-period"]
    for flag in flags:
        assert flag in text
        assert f"[ELECTOR_{flag[2:].upper().replace('-', '_')}" in text


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        settings("--version")
    assert end.value.code == 0
    assert capsys.readouterr().out == "elector 1.2.3\n"


def test_the_flag_wins_over_the_variable() -> None:
    environ = {"ELECTOR_ID": "from-variable", "ELECTOR_TTL": "not even a duration", "ELECTOR_USE_CLUSTER_CREDENTIALS": "true"}
    found = settings(*NEEDED, "--id", "from-flag", "--ttl", "20s", "--use-cluster-credentials=false", environ=environ)
    assert found.identity == "from-flag"
    assert found.timing.ttl == 20.0
    assert found.use_cluster_credentials is False


def test_an_empty_flag_wins_too() -> None:
    assert settings(*NEEDED, "--http", "", environ={"ELECTOR_HTTP": ":4040"}).http == ()


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--use-cluster-credentials"], True),
        (["--use-cluster-credentials", "--ttl", "10s"], True),
        (["--use-cluster-credentials=true"], True),
        (["--use-cluster-credentials=True"], True),
        (["--use-cluster-credentials=1"], True),
        (["--use-cluster-credentials=false"], False),
        (["--use-cluster-credentials=0"], False),
        ([], False),
    ],
)
def test_a_boolean_as_the_original_takes_it(arguments: list[str], value: bool) -> None:
    assert settings(*NEEDED, *arguments).use_cluster_credentials is value


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", ()),
        (":4040", (("", 4040),)),
        ("0.0.0.0:4040", (("0.0.0.0", 4040),)),
        ("[::]:4040", (("::", 4040),)),
        ("[::1]:0", (("::1", 0),)),
        ("localhost:4040", (("127.0.0.1", 4040), ("::1", 4040))),
        ("example.org:65535", (("example.org", 65535),)),
    ],
)
def test_addresses(text: str, addresses: tuple[tuple[str, int], ...]) -> None:
    assert settings(*NEEDED, f"--http={text}").http == addresses


@pytest.mark.parametrize(
    ("flag", "text", "allowed"),
    [
        ("--election", "Big", "a DNS subdomain of at most 253 characters"),
        ("--election", "", "a DNS subdomain"),
        ("--election", "a/b", "a DNS subdomain"),
        ("--election", "../x", "a DNS subdomain"),
        ("--election", "a..b", "a DNS subdomain"),
        ("--election", "a\n", "a DNS subdomain"),
        ("--election", "a" * 254, "a DNS subdomain"),
        ("--election-namespace", "a?b", "a DNS subdomain"),
        ("--id", "", "1 to 253 printable characters"),
        ("--id", "a\nb", "1 to 253 printable characters"),
        ("--id", "\udcff", "1 to 253 printable characters"),
        ("--ttl", "10", "a duration such as"),
        ("--ttl", "999ms", "a duration from 1s to 10m"),
        ("--ttl", "601s", "a duration from 1s to 10m"),
        ("--ttl", "", "a duration such as"),
        ("--renew-deadline", "x", "a duration such as"),
        ("--retry-period", "5", "a duration such as"),
        ("--drain", "long", "a duration such as"),
        ("--http", "4040", "HOST:PORT or :PORT"),
        ("--http", ":http", "HOST:PORT or :PORT"),
        ("--http", ":65536", "HOST:PORT or :PORT"),
        ("--http", ":", "HOST:PORT or :PORT"),
        ("--http", ":４０", "HOST:PORT or :PORT"),
        ("--status-http", "x", "HOST:PORT or :PORT"),
        ("--use-cluster-credentials", "perhaps", "true or false"),
        ("--sidecar", "modern", "nothing or native or classic"),
        ("--log-level", "loud", "error or warning or info or debug"),
        ("--log-format", "xml", "text or json"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(flag: str, text: str, allowed: str) -> None:
    needed = [] if flag == "--election" else NEEDED
    variable = "ELECTOR_" + flag[2:].upper().replace("-", "_")
    for source, given in ((flag, [f"{flag}={text}"]), (variable, [])):
        with pytest.raises(SettingsError) as error:
            settings(*needed, *given, environ={} if given else {variable: text})
        assert str(error.value).startswith(f"{source} is {text!r}: allowed is {allowed}")


def test_the_election_is_required() -> None:
    with pytest.raises(SettingsError, match=r"^--election is missing"):
        settings("--id", "a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--elction", "x"], "--elction"),
        (["--elect", "x"], "--elect"),  # no abbreviations: a flag added later must not change what they mean
        (["extra"], "extra"),
        (["--ttl"], "--ttl"),
    ],
)
def test_a_wrong_flag_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        settings(*NEEDED, *arguments)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--renew-deadline", "9.1s"], "at most 0.9 of the ttl of 10s, so that a claim has ended everywhere"),
        (["--renew-deadline", "0s"], "more than 0s and at most 0.9 of the ttl"),
        (["--retry-period", "4.5s"], "renew deadline of 5s divided by 1.2, so that a claim can be renewed in time"),
        (["--renew-deadline", "1s"], "--retry-period is 2.5s"),
    ],
)
def test_inconsistent_times_name_the_rule_that_they_break(arguments: list[str], rule: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings(*NEEDED, *arguments)
    assert rule in str(error.value)


def test_one_line_says_what_was_understood() -> None:
    found = settings(*NEEDED, "--id", "pod-a", "--ttl", "12s", "--election-namespace", "team")
    assert describe(found) == "pod-a stands for team/example (endpoints, ttl 12s, claims for 6s, retries every 3s)"
