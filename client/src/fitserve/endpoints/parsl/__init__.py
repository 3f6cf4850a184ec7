"""Endpoints through Parsl alone: this machine, or a site driven from its login node."""
