"""Metrics and thresholds. No Spark."""
