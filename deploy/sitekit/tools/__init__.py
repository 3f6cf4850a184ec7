"""Programs that run outside fitserve's own environment."""
