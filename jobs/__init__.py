"""Thin entry points for spark-submit and the console commands."""
