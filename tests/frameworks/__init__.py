"""Tests of real programs that run on the loop, driven by real clients over loopback."""
