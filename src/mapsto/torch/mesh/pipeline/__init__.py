"""The axis `pipeline`: ranks hold consecutive stages of the model (torch.distributed.pipelining)."""
