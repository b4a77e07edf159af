"""MLflow: runs with what they came to, and the registry of models. No torch, no Spark.

What is read back from a registry is a bundle, verified file by file like any other
(:mod:`pipeline.models.bundle_info`). Code and pickles of a registry are never run by this product.
"""
