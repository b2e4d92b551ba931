"""Carrying a runbook out: it knows the contract of a step and of a host, but no step type and no adapter."""
