"""Films that may teach something wrong: found, mended where it is safe, else left out or kept."""
