"""Carries out a runbook: preflight, steps in order, remediation, rollback, summary; and plans a dry run.

It knows the contract of a step and of a host, but no step type and no adapter.
"""
