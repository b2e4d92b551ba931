"""Diagnoses a unit or the whole machine, without a runbook: what is wrong, why, and what to do about it.

findings.py  what a diagnosis consists of
ports.py     which ports a unit should have, where the operator names none
unit.py      the diagnosis of one unit
facts.py     what it is made from; journal.py reads a part of that
causes/      why a unit came into its state, one function for each cause
remedies.py  the commands that bring it back now
wording.py   what systemd and the kernel report, in words
drop_in.py   the files that keep a cause from coming back

machine.py        the diagnosis of the whole machine, a finding for each unit or port
machine_facts.py  what it is made from
strays.py         processes that hold ports and are in no service, and what earlier invocations left
old_code.py       processes that execute files which were replaced since: what must be restarted after an upgrade
two_managers.py   names and ports that the system and a user manager both have

It only reads the machine. It knows neither steps nor the engine, and needs neither pydantic nor yaml. What judges a
unit's health or a port is in `checks` and `host`; here the judgements are put together.
"""
