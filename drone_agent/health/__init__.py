"""Is every part alive, and who is told?"""
