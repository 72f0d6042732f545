"""From a tested image to a disk or a host: the gate, the secrets, the writing."""
