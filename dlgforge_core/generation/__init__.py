"""Generation: performs the steps of dialogues against endpoints, and keeps what came of them."""
