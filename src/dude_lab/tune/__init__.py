"""`dude tune`: learning rate, method and rank by successive halving, within a budget of time."""
