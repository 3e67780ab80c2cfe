"""Code shared by all apps. It has no models and imports nothing else of this project."""
