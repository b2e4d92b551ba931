"""Turns events into text, JSON lines, journal entries and a page.

A report prints to the stream that `cli` gives it, and reads nothing but events.
"""
