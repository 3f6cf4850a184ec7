"""Deploying to Kubernetes: one Helm release for each site, and what its pods are doing."""
