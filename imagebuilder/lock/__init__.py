"""The lock: what it says, what may be asked of it, and how the archives answer."""
