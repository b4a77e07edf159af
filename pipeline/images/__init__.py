"""Bytes from anywhere to RGB pixels, or a named reason. Knows neither Spark nor torch."""
