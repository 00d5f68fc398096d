"""Physics on arrays, without torch: units, and simulated landscapes."""
