"""Which place on the structure is that, how much evidence is there, what has not been seen?"""
