"""Signed statements about artifacts, as in-toto has them."""
