"""What native mappings owe in every wing, said once: a file a kind, over the drivers of `mapsto.laws.drivers`.

A law here names no framework. It builds, feeds, saves and reads a mapping through the driver that the subject's wing gives
(`trial.driver`), and compares NumPy arrays. What only one framework can break (memory layout, autocast, traces, donation)
stays a law of that wing; what neutral kinds owe stands beside them, in `data/laws` and `engine/laws`.
"""
