"""Models in tension with their data, and what is right for them, found without fitserve."""
