"""systemd over D-Bus: the connection, units, jobs, transient units, and which client requested a job.

This is the only folder that talks to the bus. Facts that need no bus belong in `kernel`.
"""
