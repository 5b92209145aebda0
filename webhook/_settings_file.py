"""The one file that settings may come from: YAML, with the flags' names as keys."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

from webhook._errors import SettingsError, quoted

__all__ = ["read_file"]


def read_file(path: Path, known: Collection[str]) -> dict[str, str]:
    """The settings in `path` as texts, as flags would give them; an empty value is one that is not set.

    Raises `SettingsError` that names the file and everything wrong with it.
    """
    import yaml  # only when there is a file: it weighs 3 MB

    try:
        found = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"cannot read the settings in {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"the settings in {path} are not YAML: {reason[:200]}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SettingsError(f"the settings in {path} are no mapping of names to values")
    settings: dict[str, str] = {}
    problems = []
    for key, value in found.items():
        if key not in known:
            near = get_close_matches(str(key), list(known), n=1)
            problems.append(f"{quoted(key)} is unknown" + (f", did you mean {near[0]}?" if near else ""))
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            settings[str(key)] = str(value)
        elif value is not None:
            problems.append(f"{key} is {quoted(value)}, allowed is a text or a number")
    if problems:
        raise SettingsError(f"the settings in {path}: {'; '.join(problems)}")
    return settings
