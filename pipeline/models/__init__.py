"""The models, their bundles and the engine that runs them. Torch, no Spark."""
