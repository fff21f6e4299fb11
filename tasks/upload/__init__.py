"""How bytes leave."""
