"""A run: prepared, planned, driven through an endpoint, stored, looked at."""
