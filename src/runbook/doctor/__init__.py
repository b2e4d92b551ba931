"""Diagnoses a unit that an operator names, without a runbook: what is wrong, why, and what to do about it.

findings.py  what a diagnosis consists of
ports.py     which ports a unit should have, where the operator names none
unit.py      the diagnosis of one unit
facts.py     what it is made from; journal.py reads a part of that
causes/      why a unit came into its state, one function for each cause
remedies.py  the commands that bring it back now
wording.py   what systemd and the kernel report, in words
drop_in.py   the files that keep a cause from coming back

It only reads the machine. It knows neither steps nor the engine, and needs neither pydantic nor yaml. What judges a
unit's health or a port is in `checks` and `host`; here the judgements are put together.
"""
