"""From locked packages and a rendered tree to a disk image: each step an output of the store."""
