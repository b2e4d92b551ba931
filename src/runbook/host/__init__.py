"""The machine: what is seen of it (HostView) and what may be done to it (Host)."""
