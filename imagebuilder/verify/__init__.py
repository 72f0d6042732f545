"""Building again under other circumstances, to compare byte by byte."""
