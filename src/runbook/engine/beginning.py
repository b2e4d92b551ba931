"""Whether a run may begin: its units are there, or could come."""

from __future__ import annotations

from runbook.errors import NotBegun
from runbook.host.facts import LoadState
from runbook.host.ports import SAME_MOMENT, HostView
from runbook.step import Runbook


def begin(view: HostView, book: Runbook) -> list[str]:
    """Give what is doubtful, in sentences. Raises NotBegun for what is sure to go wrong before anything is touched."""
    could_come, doubts = False, dict[str, str]()
    for step in book.walk():
        could_come = could_come or step.brings_units
        for name in step.units():
            unit = view.unit(name, recent=SAME_MOMENT)
            if unit.load_state is not LoadState.NOT_FOUND or unit.runs:
                continue
            near = view.near(name)
            if not could_come:
                user = " --user" if unit.of_user else ""
                nearly = f"systemctl{user} list-unit-files '{unit.name.split('.')[0][:4]}*' lists what is near"
                raise NotBegun(
                    f"cannot begin: {unit.unknown()}",
                    hint=f"did you mean {near}?" if near else nearly,
                )
            if near:
                doubts[name] = unit.unknown(near).replace(name, f"{name} yet", 1)
    return list(doubts.values())
