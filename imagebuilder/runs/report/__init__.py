"""The report of a run for people: one HTML file that needs nothing else. Pure but for reading its own template."""

from imagebuilder.runs.report.page import page

__all__ = ["page"]
