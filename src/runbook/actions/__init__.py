"""What step types share that changes the machine: jobs, commands, the end of processes, a unit kept stopped.

A step type belongs in `steps`; what only reads belongs in `checks`; what a system call or a bus call needs, in `host`.
"""
