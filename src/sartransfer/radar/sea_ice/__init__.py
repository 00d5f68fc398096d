"""Simulated Sentinel-1 EW scenes of sea ice: what lies there, what the radar sees of it, and with what noise."""
