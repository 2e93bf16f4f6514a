"""Lookahead and Lion for mapsto. Each is imported when a spec names it, and not before."""
