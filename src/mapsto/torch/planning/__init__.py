"""Planning: programs of torch that are stepped without data and machines, and what of it is measured."""
