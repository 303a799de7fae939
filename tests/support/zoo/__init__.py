"""Real models with random weights, and independent ways of counting what they compute."""
