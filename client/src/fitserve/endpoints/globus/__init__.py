"""Endpoints of Globus Compute: tasks through the service, results over its broker."""
