"""Claim: which session of which run writes a study. The study says it, in one attribute.

Every session that writes takes the next generation; the one before is superseded, whatever it was
doing. Storages compare the attribute with their own in the step that writes.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lrtune.errors import InputError, Superseded

HEAD = "lrtune.head"  # study attribute: {"owner", "generation"}, of who writes it


@dataclass(frozen=True, slots=True)
class Claim:
    """A run's claim on a study."""

    owner: str  # the run's random name
    place: str  # the storage, for messages
    study: str
    way_out: str  # where the study is another run's
    process: int = field(default_factory=os.getpid)

    def after(self, head: Mapping[str, Any] | None, trials: bool) -> dict[str, Any]:
        """The attribute of the next session, by the one before and whether there are trials.

        A study without trials was left by a run that never began: anybody may have it.

        Raises:
            InputError: it is another run's.
        """
        head = head or {"owner": None, "generation": 0}
        if head["owner"] != self.owner and trials:
            raise InputError(self._of_another())
        return {"owner": self.owner, "generation": head["generation"] + 1}

    def lost(self, head: Mapping[str, Any] | None) -> Exception:
        """What a session ends with that finds another's attribute, or none."""
        if not head:
            return InputError(f"storage {self.place}: its study {self.study} is gone: restore it")
        if head["owner"] != self.owner:
            return InputError(f"storage {self.place}: {self._of_another()}")
        return Superseded(
            f"storage {self.place}: another session of this run has taken over: this one stops, "
            "and nothing is lost: follow the other one"
        )

    def check_process(self) -> None:
        """End a process that the user's code has forked and that came back into the search.

        At once: locks and connections are shared with the process that it is a copy of, and are
        not its own to release.
        """
        if os.getpid() != self.process:
            sys.stderr.write(
                f"lrtune: process {os.getpid()} is a copy of the search, made by os.fork() in the "
                "task's code: it ends here; end such a process with os._exit() where its work is\n"
            )
            sys.stderr.flush()
            os._exit(1)

    def _of_another(self) -> str:
        return f"its study {self.study} belongs to another run: {self.way_out}"
