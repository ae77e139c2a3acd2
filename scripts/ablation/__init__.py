"""Studies of `scripts/ablations.py`, one question a file."""
