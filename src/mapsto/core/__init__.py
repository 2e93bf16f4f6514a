"""Kinds, registry, composition, specs and errors: what every wing and the engine share. Imports no framework."""
