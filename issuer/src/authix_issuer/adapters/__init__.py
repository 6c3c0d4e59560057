"""The engines behind the ports; only here are their drivers imported."""
