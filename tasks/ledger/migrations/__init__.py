"""The ledger's schema, version by version (alembic). A new ledger is made from `schema.py` at once.

To change the schema: change `schema.py`, add a revision here that gets an older ledger there, and name it
`HEAD` in `schema.py`. A test compares the two ways.
"""
