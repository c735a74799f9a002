"""The assets of a dataset, each made by a function of its `DatasetSpec`."""
