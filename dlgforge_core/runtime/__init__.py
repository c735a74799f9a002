"""Runtime: Ray clusters, model servers, and the actors of a distributed run."""
