"""Where was the camera, which way did it look, how far is the wall?"""
