"""The demo: the whole loop on real flights, from training to promotion."""
