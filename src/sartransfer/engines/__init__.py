"""Engines that run a trained network faster than it was trained, behind one function type: `engines.kinds.Load`."""
