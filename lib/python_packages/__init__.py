"""Installation of Python packages by uv, with pip as fallback and pip's settings for both.

The modules of this package run under a bare Python 3.8, before any package is installed: they use only the standard
library, and they do not import Django. ``python -m lib.python_packages`` is the program that the Makefile runs.
"""
