"""Tools with which other agents use this server, through the Model Context Protocol over streamable HTTP."""
