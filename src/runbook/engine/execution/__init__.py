"""One step: an attempt, its retries, its outcome, its events, and what is known of it from the record.

The order of steps, and what follows from a failure, belongs in `engine`.
"""
