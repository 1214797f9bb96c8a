"""Comparisons: many runs from one YAML in one folder, with table, statistics and figure."""
