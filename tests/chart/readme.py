"""Makes the chart's README out of its values: `python -m tests.chart.readme`."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.chart.helm import CHART

__all__ = ["documented", "readme"]

_HEAD = """# The chart leader-election

<!-- Made by `python -m tests.chart.readme` from values.yaml; do not edit. -->

Installs the webhook that adds the elector to annotated pods, and the controller that looks after its certificate, gives pods
their rights and labels the leading ones. See [installing](../../docs/install.md).

    helm install leader-election charts/leader-election --namespace leader-election --create-namespace \\
      --set image.repository=registry.example.com/team/leader-election

| value | default | meaning |
|---|---|---|
"""


def documented(text: str) -> dict[str, str]:
    """The description of each value, by its path such as `image.tag`: the comment that begins with `# --` above its key."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        if note := re.match(r"\s*# ?(.*)", line):
            if note[1].startswith("-- "):
                comment = [note[1].removeprefix("-- ")]
            elif comment:
                comment.append(note[1])
            continue
        key = re.match(r"( *)([A-Za-z]+):", line)
        if key:
            indent = len(key[1])
            path = [*[part for part in path if part[0] < indent], (indent, key[2])]
            if comment:
                found[".".join(name for _, name in path)] = " ".join(comment)
        comment = []
    return found


def _at(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def readme(text: str) -> str:
    """The README for values that read `text`."""
    values = yaml.safe_load(text)
    rows = []
    for path, means in documented(text).items():
        default = _at(values, path)
        shown = "" if default in ("", [], {}) else f"`{default if isinstance(default, str) else json.dumps(default)}`"
        rows.append(f"| `{path}` | {shown} | {means} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    (Path(CHART) / "README.md").write_text(readme((CHART / "values.yaml").read_text()))
