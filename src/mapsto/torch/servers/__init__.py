"""The parameter server on Ray: parameters lie on servers in shards, workers compute gradients, one process drives both.

Nothing is imported here; the mesh is found by name through the registry (`mesh: {servers: 2, workers: 4}`).
"""
