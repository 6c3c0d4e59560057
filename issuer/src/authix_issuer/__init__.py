"""The Authix issuer."""
