"""Names, time spans, regular expressions, standard streams, wording: helpers for every other folder.

A module that needs `host` or `spec` does not belong here.
"""
