"""Upgrade a systemd service, and report success only if systemd and the kernel agree."""
