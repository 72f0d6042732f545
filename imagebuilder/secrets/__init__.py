"""The private keys of a topology: made, kept, encrypted, changed."""
