"""Tests that nothing leaks: objects, descriptors, memory."""
