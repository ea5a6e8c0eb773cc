"""Stores on other machines: real servers on 127.0.0.1, faults in front of them, and what a mount makes of both."""
