"""Runs queries that may block: probes, commands that only observe, file times; each in a thread or a child process.

What an answer means belongs in `checks`.
"""
