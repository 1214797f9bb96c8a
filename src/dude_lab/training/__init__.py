"""Training from one YAML file: settings, checks before the weights, the pinned trainer, the run folder.

Only `settings` and `config_file` are light; everything else imports torch and is imported where it is used.
"""
