"""One module per command: its arguments, and what it does, strung together from the other modules."""
