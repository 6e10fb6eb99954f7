"""See helpers.py."""
