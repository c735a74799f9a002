"""Metadata of materializations and checks, for the asset pages: a builder an asset, and the tables."""
