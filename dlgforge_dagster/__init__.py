"""Code location: assets, checks, jobs, sensors, resources, storage."""
