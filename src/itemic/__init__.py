"""Generative recommendation: from an interaction log and a catalogue to recommendations."""

__version__ = "0.1.0"
