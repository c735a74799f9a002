"""What knows nothing of dialogues: files, YAML sources, hints, hosts, secrets, restarts."""
