"""The attempts. These modules run inside a sandbox under its own Python, so they use only the standard library."""
