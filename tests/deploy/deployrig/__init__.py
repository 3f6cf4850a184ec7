"""An administrator who deploys from a checkout of their own, and the ways to what is deployed."""
