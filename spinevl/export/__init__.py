"""A checkpoint in the layouts of other programs."""
