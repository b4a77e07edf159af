"""The Delta tables: schemas, creation, the ledger of runs. Spark, no torch."""
