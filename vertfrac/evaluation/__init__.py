"""Predictions against annotations: matching, metrics, summary tables."""
