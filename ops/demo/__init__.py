"""The demo: a fleet's whole story, told live, asserted stage by stage from what is really there."""
