"""Planning: what meshes need of memory and move between ranks, before a run; a wing gives the steps (`dry_run`)."""
