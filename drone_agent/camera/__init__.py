"""Where do frames come from, and when exactly was each one taken?"""
