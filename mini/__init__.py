"""How the embedded model `mini` and its data sets were made: text generator, pretraining and checks; not installed."""
