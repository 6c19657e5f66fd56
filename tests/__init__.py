"""Tests of the Python package: behaviour, resources, real programs, examples."""
