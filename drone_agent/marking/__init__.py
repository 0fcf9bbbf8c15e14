"""May paint be released here and now, and who makes sure that it stops?"""
