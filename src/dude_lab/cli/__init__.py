"""The command `dude`. Nothing else of the package imports it."""
