"""Facts and actions of the kernel: processes, sockets, descriptors, signals; from /proc, sock_diag, kcmp and pidfds.

Nothing here knows units. Which unit a process belongs to is judged in `ownership`.
"""
