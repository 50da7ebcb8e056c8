"""What draws: each takes texts and numbers that are ready, and knows of no daemon."""
