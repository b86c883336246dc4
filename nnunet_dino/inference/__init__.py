"""Slice reuse: at prediction every distinct slice is encoded once."""
