"""What optimizers, schedules, losses, norms, activations and initialisers compute, in float64 on NumPy arrays.

Every formula names its source (a paper's equation, or the definition) and shares nothing with any framework's implementation:
each wing is judged against these, never against another wing.
"""
