"""Makes the tables of docs/security.md out of the rendered chart: `python -m tests.chart.security`."""

import re
from typing import Any

import yaml

from tests.chart.helm import CHART, VALUE_SETS, objects, render
from webhook.controller._roles import role_to_write

__all__ = ["DOCUMENT", "with_tables"]

DOCUMENT = CHART.parents[1] / "docs" / "security.md"

_BEGIN = "<!-- Made by `python -m tests.chart.security` from the rendered chart; do not edit. -->\n"
_END = "<!-- Until here. -->\n"


def _rendered() -> str:
    """As most people have it: only what has no default is set."""
    return render(values=[next(file for file in VALUE_SETS if file.stem == "default")])


def _reasons(document: str) -> list[str]:
    """The comment above each rule of a Role, in order."""
    found: list[str] = []
    comment: list[str] = []
    for line in document.partition("\nrules:\n")[2].splitlines():
        if note := re.match(r"\s*# ?(.*)", line):
            comment.append(note[1])
        elif re.match(r"\s*- apiGroups:", line):
            found.append(" ".join(comment))
            comment = []
    return found


_OPERATIONS = {"create": "CREATE", "update": "UPDATE", "patch": "UPDATE", "delete": "DELETE"}


def _row(who: str, where: str, rule: dict[str, Any], why: str, policies: dict[tuple[str, str], str]) -> str:
    resources = ", ".join(rule["resources"])
    names = ", ".join(f"`{name}`" for name in rule.get("resourceNames", [])) or "any"
    held = {
        policies[one, _OPERATIONS[verb]]
        for one in rule["resources"]
        for verb in rule["verbs"]
        if (one, _OPERATIONS.get(verb)) in policies
    }
    return f"| {who} | {where} | {resources} | {names} | {', '.join(rule['verbs'])} | {', '.join(sorted(held))} | {why} |\n"


def _tables(manifests: str) -> str:
    found = objects(manifests)
    of_policies = [one for one in found if one["kind"] == "ValidatingAdmissionPolicy"]
    denying = {
        one["spec"]["policyName"]
        for one in found
        if one["kind"].endswith("PolicyBinding") and "Deny" in one["spec"]["validationActions"]
    }
    policies: dict[tuple[str, str], str] = {}
    for one in of_policies:
        name = one["metadata"]["name"]
        if "-controller-" in name:
            (matched,) = one["spec"]["matchConstraints"]["resourceRules"]
            policies |= {(matched["resources"][0], operation): f"`{name}`" for operation in matched["operations"]}
    result = "| who | where | what | named | may | held by the policy | why |\n|---|---|---|---|---|---|---|\n"
    for document in re.split(r"^---$", manifests, flags=re.MULTILINE):
        role = yaml.safe_load(document)
        if not role or role["kind"] not in ("Role", "ClusterRole"):
            continue
        where = "everywhere" if role["kind"] == "ClusterRole" else "its own namespace"
        for rule, why in zip(role["rules"], _reasons(document), strict=True):
            result += _row("controller", where, rule, why, policies)
    result += "| webhook | | nothing | | | | it decides by what the API server sends it |\n"
    candidates = {(kind, "UPDATE"): f"`leader-election-{kind}`" for kind in ("endpoints", "leases")}
    for rule in role_to_write("ELECTION", ["endpoints", "leases"])["rules"]:
        why = "the lock of its election, of the kind that its pods use; given by the controller"
        result += _row("candidate", "its namespace", rule, why, candidates)
    result += "\n| policy | looks at | and says, when it refuses |\n|---|---|---|\n"
    for one in of_policies:
        if one["metadata"]["name"] not in denying:
            continue
        rules = one["spec"]["matchConstraints"]["resourceRules"]
        what = "; ".join(f"{', '.join(rule['operations']).lower()} of {', '.join(rule['resources'])}" for rule in rules)
        messages = dict.fromkeys(
            check.get("message") or check["messageExpression"].replace("'", "").replace(" + variables.pod + ", "its own pod")
            for check in one["spec"]["validations"]
        )
        result += f"| `{one['metadata']['name']}` | {what} | {'; '.join(messages)} |\n"
    return result


def with_tables(text: str) -> str:
    """The document with its tables as the chart has them now."""
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    return f"{before}{_BEGIN}\n{_tables(_rendered())}\n{_END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
