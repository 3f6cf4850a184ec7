"""Build, convert and check fitserve's container images; nothing but Python's library is needed."""
