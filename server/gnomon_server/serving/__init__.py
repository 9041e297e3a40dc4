"""The frontend process: it receives, routes, runs the primary and answers, and hands finished work to the mirror."""
