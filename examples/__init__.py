"""An example fleet: a legacy monolith whose provisioning is slow for real reasons."""
