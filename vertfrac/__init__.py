"""Vertebral heights and Genant grades from CT, measured so that a ruler can check them."""

__version__ = "0.1.0"
