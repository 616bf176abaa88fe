"""Where cases come from, how they are ingested, split, resampled and cut into slices."""
