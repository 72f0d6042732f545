"""What images consist of, and what is known to threaten it."""
