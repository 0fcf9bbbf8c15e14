"""How likely is a crack in each tile, and is the picture good enough to say?"""
