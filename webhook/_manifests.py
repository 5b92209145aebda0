"""Manifests as text: split into documents, so that what is not changed stays the same to the byte.

What is changed keeps its comments, its order, its quotes and, as far as it is uniform, its indentation.
"""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from webhook._errors import ManifestError

__all__ = ["add", "change_documents"]

Path = tuple[str | int, ...]

_START = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_NOTHING_MORE = re.compile(r"[ \t]*(#[^\n]*)?(\n|$)")
_KEY = r"(?P<outer> *)[^\s#\-][^\n]*:[ \t]*(?:#[^\n]*)?\n(?:[ \t]*(?:#[^\n]*)?\n)*"
_LIST = re.compile(rf"^{_KEY}(?P<inner> *)- ", re.MULTILINE)
_MAP = re.compile(rf"^{_KEY}(?P<inner> +)[^\s#\-]", re.MULTILINE)
_YAML_1_1 = yaml.resolver.Resolver()


def change_documents(text: str, change: Callable[[Any], bool]) -> str:
    """`text` with `change` made to each document of it, YAML or JSON; `change` returns whether it changed anything.

    Raises `ManifestError` when a document cannot be read; what `change` raises is passed on.
    """
    carriage = "\r\n" in text
    plain = text.replace("\r\n", "\n") if carriage else text
    starts = [0, *(match.start() for match in _START.finditer(plain) if match.start() > 0), len(plain)]
    parts = [plain[start:end] for start, end in pairwise(starts)]
    lines = accumulate((part.count("\n") for part in parts), initial=0)
    changed = [_change(part, change, before) for part, before in zip(parts, lines, strict=False)]
    if changed == parts:
        return text
    result = "".join(changed)
    return result.replace("\n", "\r\n") if carriage else result


def add(document: Any, path: Path, operations: Iterable[dict[str, Any]]) -> None:
    """Apply the `add` operations of a JSON patch to what is at `path` in a document, in place.

    YAML's anchors are minded: what the patch changes in one place stays as it was in the others.
    """
    shared = _shared(document)
    for operation in operations:
        *way, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
        parent = document
        for step in (*path, *way):
            parent = _own(parent, int(step) if isinstance(parent, list) else step, shared)
        # A copy each: a value that stands in two places would be written as an anchor and an alias.
        value = copy.deepcopy(operation["value"])
        if isinstance(parent, CommentedMap | CommentedSeq):
            value = _as_yaml(value)
        if isinstance(parent, list):
            parent.insert(len(parent) if last == "-" else int(last), value)
        elif isinstance(parent, CommentedMap) and last not in parent and len(parent) > 0:
            # Before the last key, since a comment that follows belongs, as it is read, to that one.
            parent.insert(len(parent) - 1, last, value)
        else:
            parent[last] = value


def _change(part: str, change: Callable[[Any], bool], lines_before: int) -> str:
    head, body = "", part
    if part.startswith("---"):
        rest = _NOTHING_MORE.match(part, 3)
        end = rest.end() if rest is not None else 3
        head, body = part[:end], part[end:]
    if not body.strip() or body.startswith("%"):
        return part
    if body.lstrip("\ufeff \t\n").startswith("{"):
        try:
            document = json.loads(body.lstrip("\ufeff"))
        except ValueError:
            pass  # YAML may start with a brace, too
        except RecursionError as error:
            raise ManifestError("not JSON: nested too deeply") from error
        else:
            return f"{head}{json.dumps(document, indent=2, ensure_ascii=False)}\n" if change(document) else part
    parser = _parser(body)
    lines_before += head.count("\n")
    try:
        document = parser.load(body)
    except (YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"not YAML: {_words(error, lines_before)}") from error
    if not change(document):
        return part
    return head + _written(document, body)


def _words(error: Exception, lines_before: int) -> str:
    """What is wrong and in which line of the file, without the values that stand there: some are secrets."""
    if not isinstance(error, MarkedYAMLError):
        return " ".join(str(error).split())[:300]
    problem = " ".join(str(error.problem or error.context).partition(" with value ")[0].split())[:200]
    mark = error.problem_mark or error.context_mark
    return problem if mark is None else f"line {lines_before + mark.line + 1}, column {mark.column + 1}: {problem}"


def _written(document: Any, like: str) -> str:
    """The document as YAML, with its comments; without them should that not be read back as the same document."""
    for candidate in (document, _rebuilt(document)):
        out = io.StringIO()
        _parser(like).dump(candidate, out)
        try:
            if _same(YAML().load(out.getvalue()), document):
                return out.getvalue()
        except YAMLError:
            continue
    raise ManifestError("the changed document cannot be written as YAML")


def _parser(text: str) -> Any:
    """A parser that writes as `text` is written."""
    parser = YAML()
    parser.preserve_quotes = True
    parser.width = 1_000_000  # lines stay as long as they are
    in_list, in_map = _LIST.search(text), _MAP.search(text)
    offset = max(0, len(in_list["inner"]) - len(in_list["outer"])) if in_list is not None else 0
    step = len(in_map["inner"]) - len(in_map["outer"]) if in_map is not None else 2
    parser.indent(mapping=step if step > 0 else 2, sequence=offset + 2, offset=offset)
    return parser


def _own(parent: Any, key: str | int, shared: frozenset[int]) -> Any:
    """The child of `parent`, made its own when YAML's anchors share it with other places."""
    child = parent[key]
    if id(child) in shared:
        # Its comments stay with the original: in another place they would be written where they do not belong.
        parent.ca.items.pop(key, None)
        parent[key] = child = _rebuilt(child)
    return child


def _shared(document: Any) -> frozenset[int]:
    """The ids of the nodes that stand in several places, by aliases or by merges."""
    seen: set[int] = set()
    shared: set[int] = set()
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, CommentedMap | CommentedSeq):
            continue
        if id(node) in seen:
            shared.add(id(node))
            continue
        seen.add(id(node))
        # What a merge brings is among the values, and among those of the map that it comes from.
        waiting += node.values() if isinstance(node, CommentedMap) else node
    return frozenset(shared)


def _rebuilt(node: Any) -> Any:
    """A copy without comments, anchors and merges."""
    if isinstance(node, CommentedMap):
        made = CommentedMap()
        for key in node:
            made[key] = _rebuilt(node[key])
        return made
    return CommentedSeq(_rebuilt(child) for child in node) if isinstance(node, CommentedSeq) else node


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, CommentedMap) and isinstance(other, CommentedMap):
        return list(one.keys() ^ other.keys()) == [] and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, CommentedSeq) and isinstance(other, CommentedSeq):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _as_yaml(value: Any) -> Any:
    if isinstance(value, dict):
        made = CommentedMap()
        for key, child in value.items():
            made[key] = _as_yaml(child)
        return made
    if isinstance(value, list):
        return CommentedSeq(_as_yaml(child) for child in value)
    if isinstance(value, str) and _tag(value) != "tag:yaml.org,2002:str":
        # kubectl reads YAML 1.1, in which `on` is a boolean; what writes here knows 1.2 only.
        return DoubleQuotedScalarString(value)
    return value


def _tag(value: str) -> Any:
    return _YAML_1_1.resolve(yaml.ScalarNode, value, (True, False))  # type: ignore[no-untyped-call]
