from drone_agent.camera.opencv import silence_decoders

# Read once by OpenCV, at the first video that is opened.
silence_decoders()
