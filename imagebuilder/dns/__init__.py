"""The DNS records that a topology needs: what they are, and whether they are published."""
