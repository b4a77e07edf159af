"""From manifest to published tags: selection, staging, publishing. Spark, no torch."""
