"""What runs on a node: it takes an encoded task, fits, and returns an encoded result."""
