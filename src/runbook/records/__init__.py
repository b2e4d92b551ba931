"""What is on disk: the record of a run, the history of runs, the output of commands, the locks, needrestart's hooks.

What a record means for a run that is resumed belongs in `engine`; how it is shown, in `report`.
"""
