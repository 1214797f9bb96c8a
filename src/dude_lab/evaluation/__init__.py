"""Evaluation by lm-evaluation-harness on the data sets of the catalogue."""
