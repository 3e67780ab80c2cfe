"""How the admin desk writes times: as logs do, so that they sort and can be searched for."""
