"""Middleware native to PyTorch: each maps one or more of a program's four mappings to a mapping of the same type.

One file a mapping or a few alike; found by name through the registry, so nothing is imported here.
"""
