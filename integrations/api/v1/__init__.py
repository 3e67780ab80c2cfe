"""Git hosts over REST."""
