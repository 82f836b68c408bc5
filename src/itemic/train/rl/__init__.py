"""Reinforced preference optimisation: the model answers, its answers are judged, what was better becomes likelier."""
