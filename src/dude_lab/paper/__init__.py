"""The paper's tables and figures, each from one command: what is run, what it costs, and what came of it."""
