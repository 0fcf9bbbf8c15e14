"""A pier with known cracks and a vehicle that speaks MAVLink, for the demo and the tests."""
