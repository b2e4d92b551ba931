"""What step types share that only reads: health, probes, versions, start limits, why a process exited.

Everything here takes a `HostView`. What acts belongs in `actions`; how a fact is read from the machine, in `host`.
"""
