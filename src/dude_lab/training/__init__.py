"""Train one run: check the plan, load the model, train, evaluate, and write the run folder."""
