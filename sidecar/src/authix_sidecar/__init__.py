"""The Authix sidecar."""
