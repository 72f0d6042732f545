"""The content-addressed store, and how stores share what is in them."""
