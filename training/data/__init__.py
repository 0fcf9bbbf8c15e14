"""Photographs in, labelled tiles out."""
