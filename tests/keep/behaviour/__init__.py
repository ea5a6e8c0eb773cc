"""The behaviours of tests/behaviour over a Keep source."""
