"""Keeps the pointer to a fleet's image, and the list of its members."""
