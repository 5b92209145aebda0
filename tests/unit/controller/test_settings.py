"""The controller's flags."""

import argparse
import subprocess
import sys

import pytest

from webhook._errors import SettingsError
from webhook.controller._settings import Settings, add_flags, read_settings

NEEDED = ["--namespace=n", "--registration=r", "--secret=s", "--hosts=w.n.svc,FD00:0::1,w.n.svc", "--lock=l", "--id=pod-a"]


def read(*more: str) -> Settings:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser)
    return read_settings(parser.parse_args([*NEEDED, *more]))


def test_defaults() -> None:
    settings = read()
    assert settings.rules is not None
    assert settings.grace is None
    assert settings.rules.hosts == ("w.n.svc", "fd00::1")
    assert settings.rules.certificate_lifetime == 720 * 3600
    assert settings.rules.authority_lifetime == 8760 * 3600
    assert settings.rules.settle == 30
    assert settings.ttl == 10
    assert settings.status == ("", 8081)
    assert settings.names.owner == ""


def test_grants_without_certificates() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser)
    common = ["--namespace=n", "--lock=l", "--id=pod-a"]
    settings = read_settings(parser.parse_args([*common, "--grants"]))
    assert settings.rules is None
    assert settings.grace == 300
    assert read_settings(parser.parse_args([*common, "--grants", "--grants-grace=1m"])).grace == 60
    with pytest.raises(SettingsError, match="neither --hosts nor --grants"):
        read_settings(parser.parse_args(common))
    with pytest.raises(SettingsError, match="--hosts needs --registration and --secret"):
        read_settings(parser.parse_args([*common, "--hosts=a"]))


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--certificate-lifetime=2s", "--certificate-lifetime is 2s, allowed is at least 3s"),
        ("--ca-lifetime=2159h", "--ca-lifetime is 7772400s, allowed is at least three times"),
        ("--settle=181h", "--settle is 651600s, allowed is at most a quarter of --certificate-lifetime, which is"),
        ("--ttl=11m", "--ttl is 660s, allowed is 1s to 10m"),
        (f"--id={'a' * 254}", '--id is "aaa.*allowed are 253 printable characters'),
        ("--id=", "--id is missing"),
    ],
)
def test_contradictions(flag: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read(flag)


@pytest.mark.parametrize(
    "flag", ["--settle=soon", "--settle=-1s", "--hosts=a b", "--hosts=a,,b", "--secret=A", "--status-listen=x", "--owner=A"]
)
def test_wrong_values_are_a_wrong_use(flag: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "webhook", "controller", *NEEDED, flag], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert flag.split("=")[0] in done.stderr
    assert "allowed is" in done.stderr


def test_outside_a_pod_it_says_what_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "webhook", "controller", *NEEDED], capture_output=True, text=True, check=False, env={"PATH": ""}
    )
    assert done.returncode == 1
    assert "KUBERNETES_SERVICE_HOST is not set" in done.stderr
