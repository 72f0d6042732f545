"""Runs of the acceptance tests: what is known of each, and what it proves."""
