"""Speed of the agent, as ratios: `make bench`."""
