"""The routes of Git hosts that existing clients call; they translate, and the services decide."""
