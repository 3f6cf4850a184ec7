"""The engines that fit: pyhf as the reference, and what agrees with it and is faster."""
