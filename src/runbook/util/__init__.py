"""Helpers for every other folder: unit names, time spans, regular expressions, standard streams, wording.

A module that needs `host` or `spec` does not belong here.
"""
