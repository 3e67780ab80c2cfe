"""Pages for Git hosts."""
