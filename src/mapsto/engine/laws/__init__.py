"""The laws of what a run is made of: observers, and the checkpoints of whole programs."""
