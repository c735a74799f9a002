"""Datasets: formats, splits, statistics, plots, cards, folders, the hub."""
