"""Endpoints: where tasks are done, how a user names them, and whether they work."""
