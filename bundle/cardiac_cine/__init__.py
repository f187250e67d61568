"""Segment the heart in short-axis cine MR and measure it: the code behind the bundle's configs."""

__version__ = "0.8.2"
