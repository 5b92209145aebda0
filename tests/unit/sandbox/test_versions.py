import pytest

from sandbox._recipes import CONTROL_PLANE
from sandbox._versions import KUBERNETES, parse_go_version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go1.26.8\n", (1, 26)),
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go1.27rc1", (1, 27)),
        ("go1.26.0 X:nocoverageredesign", (1, 26)),
        ("devel go1.28-0a1b2c3 Mon Nov 2", (1, 28)),
        ("go2.0", (2, 0)),
        ("", None),
        ("command not found: go", None),
        ("cargo1.80", None),
    ],
)
def test_go_versions_are_read_in_every_form_that_go_prints(text: str, version: tuple[int, int] | None) -> None:
    assert parse_go_version(text) == version


def test_the_kubernetes_module_repeats_what_only_a_main_module_may_say() -> None:
    module = next(recipe.module for recipe in CONTROL_PLANE if recipe.name == "kube-apiserver")
    theirs = (
        "module k8s.io/kubernetes\n\ngo 1.26.0\n\ngodebug default=go1.26\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\n"
        "replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\tk8s.io/client-go => ./staging/src/k8s.io/client-go\n)\n"
    )
    minor = KUBERNETES.removeprefix("1.")
    assert module.go_mod(theirs).splitlines() == [
        "module sandbox/kubernetes",
        "go 1.26.0",
        "godebug default=go1.26",
        f"require k8s.io/kubernetes v{KUBERNETES}",
        f"replace k8s.io/api => k8s.io/api v0.{minor}",
        f"replace k8s.io/client-go => k8s.io/client-go v0.{minor}",
    ]
