"""Code shared by all apps. It contains no models and imports no other package of this project."""
