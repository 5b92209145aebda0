"""The reference of the annotations, made from their schema: `python -m webhook._reference > docs/annotations.md`."""

from __future__ import annotations

import sys

from webhook._annotations import INJECTED, ROWS

__all__ = ["reference"]

_HEAD = """\
# Annotations

<!-- Made by `python -m webhook._reference` from the schema in `webhook/_annotations.py`; do not edit. -->

They belong on the **pod**: in a Deployment or any other workload, in the template's `metadata`, not in the workload's
own. A value is always a string, so `true` and numbers need quotes.

| annotation | what it means | allowed | default |
|---|---|---|---|
"""


def reference() -> str:
    """The reference as Markdown."""
    rows = [f"| `{row.key}` | {row.means} | {row.allowed} | {row.default} |" for row in ROWS]
    rows.append(f"| `{INJECTED}` | written by the webhook, as a label too; never read | | |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
