"""Judges which unit each process that holds a port belongs to, and what that means for the port.

It reads systemd and the kernel only through the Protocols in `sources`.
"""
