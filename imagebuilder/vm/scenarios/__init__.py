"""The acceptance tests: what a mail system made of the two images does, each a sentence."""
