"""Pallets: background-only workspaces with their signal patchsets, read and verified."""
