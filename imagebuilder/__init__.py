"""One topology file in, two reproducible and tested mail server images out."""

__version__ = "0.1.0"
