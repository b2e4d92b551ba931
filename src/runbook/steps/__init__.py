"""One file per step type. The folder is scanned (runbook.step.registry); there is no list to edit."""
