"""Pallets: background-only workspaces with their signal patchsets, read and verified."""

from fitserve.pallet.load import load_pallet
from fitserve.pallet.model import Pallet

__all__ = ["Pallet", "load_pallet"]
