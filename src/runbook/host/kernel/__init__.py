"""Facts and actions of the kernel: processes, sockets, descriptors, signals; from /proc, sock_diag, kcmp and pidfds.

This folder has no units: `ownership` judges to which unit a process belongs.
"""
