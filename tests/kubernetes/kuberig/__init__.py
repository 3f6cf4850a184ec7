"""A real Kubernetes for tests, and what rendered manifests are held against."""
