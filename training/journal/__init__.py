"""The experiment journal: one document from data to the chosen winner, put together from what the runs left."""
