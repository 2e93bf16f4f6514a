"""Checkpoints: which states are kept, and how they are written, read and verified; a checkpoint exists whole or not at all."""
