"""Comparisons: many runs from one YAML, kept in one folder, and the table, statistics and picture made from them."""
