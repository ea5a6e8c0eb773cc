"""Recipes of the test stores: each makes one dataset (or a few that belong together) with the real tools."""
