"""What only a whole release can show: images that are near-copies of each other."""
