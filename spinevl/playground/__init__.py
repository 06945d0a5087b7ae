"""A page in the browser that asks one checkpoint. Not for clinical use."""
