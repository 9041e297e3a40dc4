"""What gnomon's own processes say to each other."""
