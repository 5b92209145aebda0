"""What the chart says of itself: every value documented and in the schema, one version, a README that is up to date."""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import yaml

from tests.chart.helm import CHART
from tests.chart.readme import documented, readme

VALUES = (CHART / "values.yaml").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """Paths of all values that are no group of others."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield from leaves(value, here)
        else:
            yield here


def schema_at(path: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA
    for name in path.split("."):
        found = found["properties"][name] if name in found.get("properties", {}) else found["additionalProperties"]
    return found


def test_every_value_is_documented_itself_or_as_part_of_a_group() -> None:
    known = documented(VALUES)
    missing = [
        path for path in leaves(yaml.safe_load(VALUES)) if not any(path == one or path.startswith(f"{one}.") for one in known)
    ]
    assert not missing


def test_the_schema_knows_every_value() -> None:
    for path in leaves(yaml.safe_load(VALUES)):
        assert schema_at(path)


def test_the_schema_has_no_value_that_there_is_not() -> None:
    def check(schema: dict[str, Any], values: Any, path: str) -> None:
        for name, below in schema.get("properties", {}).items():
            if path == "" and name == "global":
                continue  # helm's own
            assert name in values, f"{path}.{name}"
            if isinstance(values[name], dict) and below.get("type") == "object" and values[name]:
                check(below, values[name], f"{path}.{name}")

    check(SCHEMA, yaml.safe_load(VALUES), "")


def test_every_group_refuses_unknown_values() -> None:
    def check(schema: Any, path: str) -> None:
        if isinstance(schema, dict):
            if "properties" in schema and path != ".env.items":
                assert schema.get("additionalProperties") is False, path
            for name, below in schema.items():
                check(below, f"{path}.{name}".replace(".properties", ""))

    check(SCHEMA, "")


def test_the_readme_is_made_of_the_values() -> None:
    assert (CHART / "README.md").read_text() == readme(VALUES), "run python -m tests.chart.readme"


def test_the_versions_are_the_programs_own() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_the_guide_names_values_that_there_are() -> None:
    guide = (CHART.parents[1] / "docs" / "install.md").read_text()
    groups = "|".join(SCHEMA["properties"])
    named = set(re.findall(rf"(?:--set |`)((?:{groups})(?:\.[A-Za-z]+)+)", guide))
    assert len(named) > 10
    for path in named:
        assert schema_at(path)
