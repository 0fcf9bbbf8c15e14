"""What is kept, so that a pulled battery loses nothing that mattered?"""
