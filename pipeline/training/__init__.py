"""Training on a labelled manifest. Torch, no Spark."""
