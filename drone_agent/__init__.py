"""CrackScout's onboard agent: finds cracks in concrete while the drone flies past it."""

__version__ = "0.1.0"
