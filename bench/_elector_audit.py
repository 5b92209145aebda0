"""The API server's own account: who asked for what, when it came in, and when it was done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

__all__ = ["Request", "read_audit"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request; times are this machine's wall clock in seconds, `done` is infinite while it is not answered."""

    received: float
    done: float
    user: str
    verb: str
    uri: str
    status: int

    def concerns(self, election: str) -> bool:
        return election in self.uri

    @property
    def written(self) -> bool:
        """Whether it changed a lock that was there."""
        return self.verb == "update" and self.status == 200


def read_audit(folder: Path) -> list[Request]:
    """All that is in the logs of that folder so far, rotated ones too, by the time it came in."""
    found: dict[str, Request] = {}
    for file in folder.glob("audit*.log"):
        with file.open() as lines:
            for line in lines:
                if line.endswith("}\n"):  # the last one may be half written
                    event = json.loads(line)
                    complete = event["stage"] == "ResponseComplete"
                    if complete or event["auditID"] not in found:
                        found[event["auditID"]] = Request(
                            received=_seconds(event["requestReceivedTimestamp"]),
                            done=_seconds(event["stageTimestamp"]) if complete else float("inf"),
                            user=event["user"]["username"],
                            verb=event["verb"],
                            uri=event["requestURI"],
                            status=event.get("responseStatus", {}).get("code", 0),
                        )
    return sorted(found.values(), key=lambda request: request.received)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
