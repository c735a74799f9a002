"""Plans: seeds, personas, turn counts and fingerprints; pure, and the same on any machine."""
