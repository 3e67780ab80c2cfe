"""Attempts to break out of a sandbox, first from the plain process provider and then from the isolated ones."""
