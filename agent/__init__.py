"""What runs on a server: one file, standard library only."""
