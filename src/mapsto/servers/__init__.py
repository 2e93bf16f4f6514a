"""What every parameter server does, whatever computes on it: Ray's processes, dealing blocks, going back after a loss.

A wing gives the two kinds of actors and says how a state tree is cut into what each server holds (`layout.Actors`).
"""
