"""Upgrade a systemd service, and believe it only when systemd and the kernel agree."""
