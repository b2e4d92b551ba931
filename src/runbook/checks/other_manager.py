"""Which other manager has a unit that this one does not have: `--user` was left out, or is one too many."""

from __future__ import annotations

from shlex import quote

from runbook.host.interface import HostView

MAX_USERS_NAMED = 3


def explain_other_manager(
    view: HostView, unit: str, *, system: str = "leave out --user", user: str = "add --user", command: str = "…"
) -> str:
    """Return which other manager has a unit, and what to do; empty if none has it.

    `system` and `user` are how to choose that manager, `command` is what follows `runbook`.
    """
    found = view.find_other_managers(unit)
    if found.system:
        return f"{unit} is a unit of the system: {system}, and run it as root"
    if found.own:
        return f"{unit} is a unit of your user manager: {user}"
    if not found.users:
        return ""
    named = " and ".join(found.users[:MAX_USERS_NAMED])
    managers = f"the user manager{'' if len(found.users) == 1 else 's'} of {named}"
    return (
        f"{unit} is a unit of {managers}: {user}, and run it as that user: su - {quote(found.users[0])} -c "
        f"{quote(f'runbook {command}')}"
    )
