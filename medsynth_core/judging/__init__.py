"""Judging of images: networks, filters in their order, and what they were calibrated on."""
