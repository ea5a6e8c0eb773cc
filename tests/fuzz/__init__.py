"""Fuzzing of everything that parses bytes of others; see README.md."""
