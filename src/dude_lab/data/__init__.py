"""Data sets: the catalogue of those with names, their readers and parsers, and the reader of a user's own files."""
