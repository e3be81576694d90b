"""Takes a launched server through its plan and into service, or gives it up loudly."""
