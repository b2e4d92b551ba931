"""`runbook init`: writes a first runbook for a unit, from what is found of it now.

survey.py       all that is found, in order
program.py      which file a unit runs
packages.py     what installed it: apt, npm or pip; which version is installed, and which could be
apt.py npm.py pip.py    one kind of package each
probe.py        a probe that its port answers rightly now
own_version.py  the version that a program prints itself
lookup.py       queries of the machine, answered one after the other
text.py         the runbook
"""
