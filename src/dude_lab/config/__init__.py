"""The sections of a YAML config as pydantic classes, and the reader and writer of the files."""
