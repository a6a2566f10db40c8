"""Recorded play: files of it, and the start contexts that they give."""
