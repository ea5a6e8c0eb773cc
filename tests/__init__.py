"""Tests of riafs."""
