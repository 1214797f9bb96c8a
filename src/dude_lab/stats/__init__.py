"""Intervals and tests for accuracies and losses, and the one rule by which a difference is called significant."""
