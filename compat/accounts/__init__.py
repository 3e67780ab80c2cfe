"""The sign-in routes that existing clients call; they translate, and the services decide."""
