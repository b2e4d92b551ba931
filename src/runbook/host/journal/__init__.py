"""Reads the journal through journalctl, and writes to it by journald's native protocol.

What a journal entry of a run contains belongs in `report`.
"""
